"""What each cell variant costs: forward + backward against the plain cell, on an engine and step by step.

    python -m benchmarks.variants [--sizes 32,64,128,128 1,100,64,64] [--rounds 5] [--seconds 0.3] [--out FILE]

Each runs on the engine that is chosen by itself (named in the table), and on the reference engine, which takes one step
after the other in NumPy's terms. NumPy, float32, one process, BLAS and threads as they come. Masks are drawn, and each
one's output over eight steps is compared with that of the reference engine in float64, before the timing. The variants
take turns, in an order that turns by one place each round; times are medians over the calls of all rounds.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

from lstm_xp import LSTM, State
from lstm_xp.masks import Masks
from lstm_xp.testing import assert_close

from . import machine, records
from .arguments import add_sizes, check_run
from .problems import Problem
from .runner import statistics
from .tables import milliseconds
from .timing import rest, times

PLAIN = "plain cell"
ENGINES = ("auto", "array_api")
SIZES = ((32, 64, 128, 128), (1, 100, 64, 64))
EVERYTHING = "all of these, coupled and projected to H/2"
ODD = ("HardSigmoid", "Softsign", "Softsign")

# What is measured -> settings of an LSTM; P = H/2 stands for half of the hidden units.
VARIANTS = {
    PLAIN: {},
    "coupled gates": {"coupled": True},
    "clip": {"clip": 1.0},
    "activations HardSigmoid, Softsign": {"activations": ODD},
    "peepholes": {"peepholes": True},
    "recurrent dropout": {"recurrent_dropout": 0.25},
    "zoneout of h and c": {"zoneout_h": 0.1, "zoneout_c": 0.1},
    "projection to H/2": {"proj_size": "H/2"},
    "layer normalisation": {"layer_norm": True},
    EVERYTHING: {"coupled": True, "clip": 1.0, "activations": ODD, "peepholes": True, "recurrent_dropout": 0.25,
                 "zoneout_h": 0.1, "zoneout_c": 0.1, "proj_size": "H/2", "layer_norm": True},
}  # fmt: skip


class Contender:
    """One variant on one problem, in one dtype, on an engine."""

    def __init__(self, name, problem, dtype, engine="auto"):
        settings = dict(VARIANTS[name])
        if settings.get("proj_size"):
            settings["proj_size"] = max(1, problem.H // 2)
        self.network = LSTM(problem.D, problem.H, engine=engine, **settings)
        arrays = {key: value.astype(dtype) for key, value in problem.arrays().items()}
        R = self.network.output_size
        self.x, self.c0 = arrays["x"], arrays["c0"]
        self.h0, self.dh = arrays["h0"][:, :R], arrays["dh"][..., :R]
        # Weights like those of the other benchmarks, where the plain cell has them; the rest as `init` makes it.
        first = self.network.init(dtype=dtype)[0]
        plain = {"Wx": arrays["Wx"], "Wh": arrays["Wh"][:R], "b": arrays["b"]}
        self.params = (first._replace(**plain),)
        self.masks = self._drawn()

    def training(self):
        """Forward, then backward: outputs, and all gradients."""
        y, cache = self.forward()
        return y, self.network.backward(self.dh, cache)

    def forward(self):
        """The output, and the cache."""
        state = State(self.h0[None, ...], self.c0[None, ...])
        y, _, cache = self.network.forward(self.params, self.x, state, masks=self.masks)
        return y, cache

    def engine(self):
        """What runs the recurrence."""
        return self.forward()[1].directions[0].engine

    def _drawn(self):
        """The same masks in every dtype; None where the variant has none."""
        rng, needed = np.random.default_rng(1), ("recurrent_dropout", "zoneout_h", "zoneout_c")
        if not any(getattr(self.network, rate) for rate in needed):
            return None
        drawn = self.network.forward(self.params, self.x, rng=rng, training=False)[2].masks
        return Masks(*(kind and tuple(mask.astype(self.x.dtype) for mask in kind) for kind in drawn))


def check(problem):
    """Compare each output with the reference in float64, over few steps: the errors of some grow with each one."""
    steps = min(problem.T, 8)
    short = problem._replace(T=steps)
    for name in VARIANTS:
        expected, _ = Contender(name, short, "float64", "array_api").training()
        for engine in ENGINES:
            narrow = Contender(name, short, "float32", engine)
            assert_close(narrow.training()[0], expected, like=narrow.x, steps=steps, name=name)


def measure(size, rounds, seconds, say=lambda line: None):
    """The records of one size, one for each variant and engine."""
    problem = Problem.of(size, "float32")
    pairs = [(name, engine) for name in VARIANTS for engine in ENGINES]
    contenders = {pair: Contender(pair[0], problem, "float32", pair[1]) for pair in pairs}
    check(problem)
    taken = {pair: [] for pair in pairs}
    for number in range(rounds):
        say(f"{','.join(map(str, problem.size))}: round {number + 1} of {rounds}")
        for pair in pairs[number % len(pairs) :] + pairs[: number % len(pairs)]:
            rest()  # or else the threads that multiplied for the one before spin on
            taken[pair].append(times(contenders[pair].training, seconds))
    found = []
    sizes = dict(zip("NTDH", problem.size, strict=True))
    for pair, contender in contenders.items():
        about = {"contender": pair[0], "what": "training", "size": problem.name, **sizes, "dtype": problem.dtype}
        about |= {"failed": "", "engine": contender.engine(), "rounds": rounds, "seconds": seconds}
        found.append(about | statistics(taken[pair]))
    for record in found:
        record["over_plain"] = record["median_s"] / found[pairs.index((PLAIN, "auto"))]["median_s"]
    return found


def table(found):
    """The records of all sizes as Markdown: a table for each size."""
    parts = []
    for size in dict.fromkeys(tuple(record[letter] for letter in "NTDH") for record in found):
        lines = [
            f"**N,T,D,H = {','.join(map(str, size))}**",
            "",
            "| cell | runs on | forward + backward, ms (quartiles) | over the plain cell | step by step, ms | times |",
            "| --- | --- | ---: | ---: | ---: | ---: |",
        ]
        here = [record for record in found if tuple(record[letter] for letter in "NTDH") == size]
        for record, general in zip(here[::2], here[1::2], strict=True):
            low, middle, high = (milliseconds(record[key]) for key in ("q1_s", "median_s", "q3_s"))
            slower = f"{milliseconds(general['median_s'])} | {general['median_s'] / record['median_s']:.1f}"
            ratio = f"{middle} ({low}-{high}) | {record['over_plain']:.2f} | {slower}"
            lines.append(f"| {record['contender']} | {record['engine']} | {ratio} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def conditions(record):
    """Where and with what it was measured, in a line."""
    about, versions = record["machine"], record["versions"]
    used = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{about['cpu']}, {about['cores']} cores, load {about['load']:.1f} before; {about['system']}; {used}; "
        f"{record['dtype']}; commit {about['commit']}; {about['date']}."
    )


def main(arguments=None):
    """Run the program; the exit status."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.variants", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_sizes(parser, SIZES)
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=0.3, help="for each variant and round (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="write the records as JSON lines, and the table beside them (.md)")
    options = parser.parse_args(arguments)
    check_run(parser, options)
    about = machine.describe()
    if about["dropped"]:  # OpenBLAS has read them already: measure in a process that does not see them
        words = sys.argv[1:] if arguments is None else arguments
        return subprocess.run(
            [sys.executable, "-m", "benchmarks.variants", *words], env=machine.environment()
        ).returncode
    found = []
    for numbers in options.sizes:
        found += measure(numbers, options.rounds, options.seconds, lambda line: print(line, file=sys.stderr))
    with_it = {"machine": about, "versions": machine.versions(("lstm_xp", "numba")), "pools": machine.thread_pools()}
    found = [record | with_it for record in found]
    text = f"{conditions(found[0])}\n\n{table(found)}\n"
    print(text, end="")
    if options.out:
        records.write(options.out, found)
        records.replace(options.out.with_suffix(".md"), f"# What each cell variant costs\n\n{text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
