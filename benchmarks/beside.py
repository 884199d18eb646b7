"""What other work on the processors costs a call of lstm_xp, and how much of it a shorter spin of the BLAS avoids.

    python -m benchmarks.beside [--sizes 1,200,256,256 32,50,128,256] [--rounds 5] [--seconds 0.5] [--out FILE]

Threads of NumPy's BLAS spin after a product, for up to a tenth of a second, in case there is another one. Meanwhile
they have the processors that threads of lstm_xp would use. OPENBLAS_THREAD_TIMEOUT, set before NumPy is imported, is
how long: 2 to that power of the processor's ticks. Inference, float32; each condition has processes of its own, in
turn; times are medians over the rounds.
"""

import argparse
import json
import subprocess
import sys
from time import sleep

import numpy as np

from . import machine, turns
from .arguments import add_run, check_run
from .ours import Contender
from .problems import Problem

SIZES = ((1, 200, 256, 256), (8, 30, 512, 512), (32, 50, 128, 256), (1, 64, 512, 1024))
TIMEOUT = "OPENBLAS_THREAD_TIMEOUT"
# Condition -> what a process has in its environment, whether a product comes before each call, whether a program runs
# beside it all the time.
CONDITIONS = {
    "alone": ({}, False, False),
    "after a product": ({}, True, False),
    f"after a product, {TIMEOUT}=20": ({TIMEOUT: "20"}, True, False),
    "beside a busy program": ({}, False, True),
}
# The product's side: it takes some milliseconds, on all threads.
SIDE = 512


def calls(size, product, seconds):
    """Seconds that each call took."""
    problem = Problem.of(tuple(size), "float32")
    contender = Contender(problem, problem.arrays(), "")
    factor = np.ones((SIDE, SIDE), np.float32)
    return turns.taken(contender.inference, seconds, (lambda: factor @ factor) if product else (lambda: None))


def measure(size, condition, seconds):
    """The median call of a fresh process."""
    variables, product, busy = CONDITIONS[condition]
    beside = [sys.executable, "-c", "while True: pass"]
    program = subprocess.Popen(beside) if busy else None
    try:
        sleep(0.1 * busy)
        environment = {name: value for name, value in machine.environment().items() if name != TIMEOUT} | variables
        return turns.ask("beside", condition, [size, product, seconds], environment)
    finally:
        if program:
            program.kill()
            program.wait()


def table(found):
    """The records as Markdown."""
    of = {(tuple(record[letter] for letter in "NTDH"), record["beside"]): record for record in found}
    sizes = dict.fromkeys(size for size, _ in of)
    rows = [((",".join(map(str, size)),), [of[size, condition] for condition in CONDITIONS]) for size in sizes]
    return turns.table(("N,T,D,H",), list(CONDITIONS), rows)


def main(argv=None):
    """Run the program; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.beside", description=__doc__.partition("\n")[0])
    add_run(parser, SIZES, "condition")
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps(calls(*json.loads(args.one))))
        return 0
    check_run(parser, args)

    def about(condition, size):
        named = {"size": Problem.of(size, "float32").name, "contender": "lstm_xp", "what": "inference"}
        return dict(zip("NTDH", size, strict=True)) | named | {"beside": condition}

    return turns.run(args, CONDITIONS, lambda each, size: measure(size, each, args.seconds), about, table)


if __name__ == "__main__":
    sys.exit(main())
