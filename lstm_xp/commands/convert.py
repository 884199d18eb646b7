"""Convert the weights of an LSTM from one file format to another.

Formats are found by the suffix, and by what is in the file: .safetensors and .npz of this package or with PyTorch's
names, .keras and .h5 (.weights.h5) of Keras, .onnx. Written are .safetensors and .npz of this package, unless --to
says otherwise, .weights.h5 and .onnx. PyTorch's pickles (.pt, .pth, .bin) are never read.

examples:
  lstm-xp convert torch.safetensors lstm.safetensors
  lstm-xp convert model.keras lstm.npz --name encoder
  lstm-xp convert model.keras lstm.npz --name bidirectional+bidirectional_1   (layers of one network)
  lstm-xp convert lstm.safetensors for_torch.safetensors --to pytorch
"""

from pathlib import Path

from lstm_xp import weights
from lstm_xp.training.errors import UserError

from .inspect import opened, summary


def add_arguments(parser):
    """Declare the command's arguments."""
    known = ", ".join(weights.FORMATS)
    parser.add_argument("source", metavar="SRC", help="the file to read")
    parser.add_argument("destination", metavar="DST", help="the file to write")
    parser.add_argument("--from", dest="source_format", metavar="FORMAT", choices=weights.FORMATS,
                        help=f"of SRC: {known} (default: found by looking)")  # fmt: skip
    parser.add_argument("--to", dest="destination_format", metavar="FORMAT", choices=weights.FORMATS,
                        help="of DST, one of the same (default: by its suffix)")  # fmt: skip
    parser.add_argument("--name", metavar="LAYER", help="which LSTM of SRC, where it has several (see lstm-xp inspect)")
    parser.add_argument("--overwrite", action="store_true", help="replace DST if it exists")


def run(args):
    """Run the command; the exit status."""
    if Path(args.destination).exists() and not args.overwrite:
        raise UserError(f"{args.destination} exists: choose another name, or give --overwrite")
    with opened():
        network, params = weights.read(args.source, args.name, format=args.source_format)
        weights.write(args.destination, network, params, format=args.destination_format, overwrite=args.overwrite)
    print(f"{args.destination}: {summary(network, params)}")
    return 0
