"""Cell variants beside the rivals that have them: PyTorch's projection, and what the LSTM of ONNX Runtime can be.

    python -m benchmarks.cells [--cells "projection to H/2" peepholes] [--sizes 1,50,64,128] [--rounds 5]
        [--seconds 0.5] [--out FILE]

The cells are those of benchmarks.variants that somebody else has, too, in one layer and one direction, and the plain
cell to compare with. Sizes are batch N, steps T, features D and units H; a projection goes to H/2. Inference, and
forward + backward with gradients of the input and of all parameters, float32. ONNX Runtime has inference alone. Not in
here, for no rival has them: layer normalisation, zoneout, recurrent dropout (what they cost: benchmarks.variants).

Outputs are compared with the reference engine in float64 before anything is timed. Each contender has processes of
its own, in turn; times are medians over the rounds. A minute tells whether everybody is installed, and right:

    python -m benchmarks.cells --sizes 2,5,4,6 --rounds 1 --seconds 0
"""

import argparse
import json
import sys

from lstm_xp import variants as general

from . import networks, turns
from .arguments import add_run, check_run
from .problems import Problem
from .timing import rest
from .variants import PLAIN, Contender

# Cell, by its name in benchmarks.variants -> the rivals that have it.
CELLS = {
    PLAIN: ("torch_cpu", "onnxruntime"),
    "projection to H/2": ("torch_cpu",),
    "peepholes": ("onnxruntime",),
    "coupled gates": ("onnxruntime",),
    "clip": ("onnxruntime",),
    "activations HardSigmoid, Softsign": ("onnxruntime",),
}
SIZES = ((1, 50, 64, 128), (8, 50, 128, 256), (32, 50, 128, 256), (32, 50, 256, 512))
# So many times as large as in other benchmarks is x: else nothing would be clipped, nor a HardSigmoid reach its ends,
# and a rival that leaves either out would be thought right.
SPREAD = 4


def things(cells):
    """What is timed: cell, contender and work."""
    pairs = networks.things(False)
    return [(cell, *pair) for cell in cells for pair in pairs if pair[0] in ("lstm_xp", *CELLS[cell])]


def given(cell, size):
    """What a contender of benchmarks.networks is made of, and its output in float64, which no engine computes."""
    problem = Problem.of(tuple(size), "float32")
    narrow, wide = (Contender(cell, problem, dtype) for dtype in ("float32", "float64"))
    expected, _ = general.forward(SPREAD * wide.x, None, None, wide.params[0], wide.network.cell, keep=False)
    return (narrow.network, narrow.params, SPREAD * narrow.x, narrow.dh, None), expected


def calls(cell, name, what, size, seconds):
    """Seconds that each call of a contender took, after its output was compared."""
    found = given(cell, size)
    rest()  # or else the threads that multiplied for the reference spin on, beside the first calls
    return networks.timed(name, what, *found, seconds)


def measure(thing, size, seconds):
    """The median call of a fresh process."""
    return turns.ask("cells", ", ".join(thing), [*thing, size, seconds])


def table(found):
    """The records as Markdown, cell by cell."""
    found = sorted(found, key=lambda record: list(CELLS).index(record["cell"]))
    return networks.table(found, ("cell", "N,T,D,H"), ("cell", "size"))


def about(thing, size):
    """What a record says of what was timed: as one of benchmarks.networks, and the cell."""
    network = {"layers": 1, "directions": 1} | dict(zip("NTDH", size, strict=True)) | {"lengths": False}
    return network | dict(zip(("cell", "contender", "what"), thing, strict=True))


def main(argv=None):
    """Run the program; return its exit status."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.cells", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    named = ", ".join(f'"{cell}"' for cell in CELLS)
    parser.add_argument(
        "--cells", nargs="+", choices=CELLS, default=list(CELLS), metavar="CELL", help=f"default: all of {named}"
    )
    add_run(parser, SIZES, "contender")
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps(calls(*json.loads(args.one))))
        return 0
    check_run(parser, args)
    return turns.run(args, things(args.cells), lambda thing, size: measure(thing, size, args.seconds), about, table)


if __name__ == "__main__":
    sys.exit(main())
