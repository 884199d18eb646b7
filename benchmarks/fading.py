"""What a gradient that fades away costs: that of the last output alone, as a classifier of sequences has it.

    python -m benchmarks.fading [--sizes 32,784,1,128] [--rounds 5] [--seconds 0.5] [--out FILE]

Handed back through many steps, it shrinks until its numbers are denormal, for which a processor takes a hundred times
as long. Forward + backward, float32, the forget gate's bias 1, as in a fresh network; with a gradient of every output,
and of the last one alone. Each contender has processes of its own, in turn; times are medians over the rounds.
"""

import argparse
import json
import sys

from . import rivals, turns
from .arguments import add_run, check_run
from .problems import Problem

SIZES = ((32, 784, 1, 128), (16, 1000, 16, 256), (1, 5000, 4, 64))
CONTENDERS = ("lstm_xp", "lstm_xp:numpy_fused", "torch_cpu")
GRADIENTS = ("of every output", "of the last output")


def calls(name, size, gradient, seconds):
    """Seconds that each call of a contender took."""
    problem = Problem.of(tuple(size), "float32")
    arrays = problem.arrays()
    arrays["b"][problem.H : 2 * problem.H] = 1
    if gradient == "of the last output":
        arrays["dh"][:, :-1] = 0
    module, option = rivals.load(name)
    return turns.taken(module.Contender(problem, arrays, option).training, seconds)


def measure(name, size, gradient, seconds):
    """The median call of a fresh process."""
    return turns.ask("fading", name, [name, size, gradient, seconds])


def _pairs():
    return [(name, gradient) for name in CONTENDERS for gradient in GRADIENTS]


def table(found):
    """The records as Markdown."""
    sizes = dict.fromkeys(record["size"] for record in found)
    of = {(record["size"], record["contender"], record["gradient"]): record for record in found}
    rows = [((size,), [of[size, *pair] for pair in _pairs()]) for size in sizes]
    return turns.table(("N,T,D,H",), [", ".join(pair) for pair in _pairs()], rows)


def main(argv=None):
    """Run the program; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fading", description=__doc__.partition("\n")[0])
    add_run(parser, SIZES, "contender")
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps(calls(*json.loads(args.one))))
        return 0
    check_run(parser, args)

    def about(pair, size):
        name, gradient = pair
        return dict(zip("NTDH", size, strict=True)) | {"contender": name, "what": "training", "gradient": gradient}

    return turns.run(args, _pairs(), lambda pair, size: measure(pair[0], size, pair[1], args.seconds), about, table)


if __name__ == "__main__":
    sys.exit(main())
