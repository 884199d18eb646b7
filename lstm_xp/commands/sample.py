"""Write text with a trained model, byte by byte, as it is drawn.

The text goes to standard output: first the prompt, then what the model makes of it. The same seed gives the same text.

example:
  lstm-xp sample runs/lstm --prompt "def " --length 1000 --temperature 0.7
"""

import codecs
import os
import sys
from pathlib import Path

from . import values
from .extras import require


def add_arguments(parser):
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a model.safetensors, or the directory of the run that wrote it")
    parser.add_argument("--prompt", default="", metavar="TEXT", help="what the text begins with (default: nothing)")
    parser.add_argument(
        "--length", type=values.count, default=500, metavar="BYTES", help="how much to write (default: 500)"
    )
    parser.add_argument(
        "--temperature", type=values.not_negative, default=0.8, metavar="T",
        help="1 draws from the model's own distribution, less is more careful, 0 takes the likeliest byte every time "
        "(default: 0.8)",
    )  # fmt: skip
    parser.add_argument("--seed", type=values.seed, default=0, help="of the random numbers (default: 0)")


def run(args):
    """Run the command; the exit status."""
    require("safetensors", "threadpoolctl")
    import numpy as np

    from lstm_xp.training.checkpoints import load_model
    from lstm_xp.training.devices import blas_threads
    from lstm_xp.training.errors import UserError
    from lstm_xp.training.runs import MODEL
    from lstm_xp.training.sampling import sample_bytes

    path = Path(args.model)
    if path.is_dir():
        if not (path / MODEL).exists():
            raise UserError(f"{path} has no {MODEL}: let lstm-xp train end, or go on with --resume --out {path}")
        path /= MODEL
    parameters, _ = load_model(path)
    prompt = os.fsencode(args.prompt)
    rng = np.random.default_rng(args.seed)
    stream = sample_bytes(parameters, prompt, args.length, temperature=args.temperature, rng=rng)
    with blas_threads(1):
        write_text(prompt, stream, sys.stdout)
    return 0


def write_text(prompt, stream, out):
    """Write a prompt and a stream of bytes as UTF-8 text, each character as soon as it is whole, and a newline."""
    if hasattr(out, "reconfigure"):
        # What the terminal's encoding lacks must not end the program.
        out.reconfigure(errors="replace")
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    out.write(decoder.decode(prompt))
    for byte in stream:
        out.write(decoder.decode(bytes([byte])))
        out.flush()
    out.write(decoder.decode(b"", final=True) + "\n")
    out.flush()
