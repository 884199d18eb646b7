"""Convert the weights of an LSTM from one file format to another.

Formats are found by the suffix, and by what is in the file: .safetensors and .npz of this package or with PyTorch's
names, .keras and .h5 (.weights.h5) of Keras, .onnx. Written are .safetensors and .npz of this package, unless --to
says otherwise, .weights.h5 and .onnx. PyTorch's pickles (.pt, .pth, .bin) are never read.

Only the LSTM is converted: what else is in SRC is left out, and named.

examples:
  lstm-xp convert torch.safetensors lstm.safetensors
  lstm-xp convert model.keras lstm.npz --name encoder
  lstm-xp convert model.keras lstm.npz --name bidirectional+bidirectional_1   (layers of one network)
  lstm-xp convert lstm.safetensors for_torch.safetensors --to pytorch --prefix encoder.lstm
"""

import os
from pathlib import Path

from lstm_xp import weights
from lstm_xp.training.errors import UserError

from .inspect import listed, opened, summary


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
    parser.add_argument("--prefix", metavar="NAME",
                        help="what the names in DST begin with, in the format pytorch (default: as in SRC if that is "
                        "of the same format, else nothing)")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace DST if it exists")


def run(args):
    """Run the command; the exit status."""
    if Path(args.destination).exists():
        # Only the LSTM is written: whatever else the file holds would be lost.
        if Path(args.source).exists() and os.path.samefile(args.source, args.destination):
            raise UserError(f"{args.destination} is the file to read itself: choose another name for DST")
        if not args.overwrite:
            raise UserError(f"{args.destination} exists: choose another name, or give --overwrite")
    with opened():
        source = args.source_format or weights.format_of(args.source)
        network, params = weights.read(args.source, args.name, format=source)
        name = args.name if args.name is not None else weights.names(args.source, format=source)[0]
        left = weights.others(args.source, name, format=source)
        prefix = args.prefix
        if prefix is None:
            prefix = name if source == args.destination_format and weights.FORMATS[source].has_prefix else ""
        weights.write(args.destination, network, params, format=args.destination_format, overwrite=args.overwrite,
                      prefix=prefix)  # fmt: skip
    print(f"{args.destination}: {summary(network, params)}")
    if left:
        print(f"left out: {listed(left)}")
    return 0
