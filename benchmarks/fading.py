"""What a gradient that fades away costs: that of the last output alone, as a classifier of sequences has it.

    python -m benchmarks.fading [--sizes 32,784,1,128] [--rounds 5] [--seconds 0.5] [--out FILE]

Handed back through many steps, it shrinks until its numbers are denormal, for which a processor takes a hundred times
as long. Forward + backward, float32, the forget gate's bias 1, as in a fresh network; with a gradient of every output,
and of the last one alone. Each contender has processes of its own, in turn; times are medians over the rounds.
"""

import argparse
import json
import subprocess
import sys
from statistics import median
from time import perf_counter

from . import machine, records, rivals
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
    contender, taken = module.Contender(problem, arrays, option), []
    contender.training()
    end = perf_counter() + seconds
    while len(taken) < 2 or perf_counter() < end:
        start = perf_counter()
        contender.training()
        taken.append(perf_counter() - start)
    return taken


def measure(*asked):
    """The median call of a fresh process."""
    command = [sys.executable, "-m", "benchmarks.fading", "--one", json.dumps(asked)]
    done = subprocess.run(command, env=machine.environment(), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{asked[0]}: {done.stderr.strip()}")
    return median(json.loads(done.stdout))


def table(found):
    """The records as Markdown."""
    columns = [f"{name}, {gradient}" for name in CONTENDERS for gradient in GRADIENTS]
    lines = ["| N,T,D,H | " + " | ".join(columns) + " |", "| ---" + " | ---:" * len(columns) + " |"]
    for size in dict.fromkeys(record["size"] for record in found):
        times = {(record["contender"], record["gradient"]): record["median_s"]
                 for record in found if record["size"] == size}  # fmt: skip
        cells = (f"{1e3 * times[name, gradient]:.3g}" for name in CONTENDERS for gradient in GRADIENTS)
        lines.append(f"| {size} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv=None):
    """Run the program; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fading", description=__doc__.partition("\n")[0])
    add_run(parser, SIZES, "contender")
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps(calls(*json.loads(args.one))))
        return 0
    check_run(parser, args)
    about, found = machine.describe(), []
    for size in args.sizes:
        taken = {(name, gradient): [] for name in CONTENDERS for gradient in GRADIENTS}
        for number in range(args.rounds):
            for (name, gradient), medians in taken.items():
                print(f"{size}: round {number + 1} of {args.rounds}, {name}, {gradient}", file=sys.stderr)
                medians.append(measure(name, size, gradient, args.seconds))
        common = dict(zip("NTDH", size, strict=True)) | {"size": ",".join(map(str, size)), "dtype": "float32"}
        for (name, gradient), medians in taken.items():
            record = {"contender": name, "what": "training", "gradient": gradient, "failed": "", "machine": about}
            found.append(common | record | {"median_s": median(medians), "round_medians_s": medians})
    if args.out:
        records.write(args.out, found)
    print(f"Milliseconds:\n\n{table(found)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
