"""What each cell variant costs: forward + backward against the plain cell, on an engine and in the general recurrence.

    python -m benchmarks.variants [--sizes 32,64,128,128 1,100,64,64] [--rounds 5] [--seconds 0.3] [--out FILE]

The plain cell runs on the engine that `lstm_forward` chooses (named in the table), and once more through the general
recurrence of lstm_xp.variants, which every variant runs through: so the price of leaving the engine is seen apart from
that of the variant's own arithmetic. NumPy, float32, one process, BLAS and threads as they come. Masks are drawn, and
each one's output over eight steps is compared with its own in float64, before the timing. The variants take turns, in
an order that turns by one place each round; times are medians over the calls of all rounds.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

from lstm_xp import LSTM, Direction, State, explain, variants
from lstm_xp.masks import Masks
from lstm_xp.testing import assert_close

from . import machine, records
from .arguments import add_sizes, check_run
from .problems import Problem
from .runner import statistics
from .tables import milliseconds
from .timing import times

PLAIN, GENERAL = "plain cell", "plain cell, general recurrence"
SIZES = ((32, 64, 128, 128), (1, 100, 64, 64))
EVERYTHING = "all of these, coupled and projected to H/2"
ODD = ("HardSigmoid", "Softsign", "Softsign")

# What is measured -> settings of an LSTM; P = H/2 stands for half of the hidden units.
VARIANTS = {
    PLAIN: {},
    GENERAL: {},
    "coupled gates": {"coupled": True},
    "clip": {"clip": 3.0},
    "activations HardSigmoid, Softsign": {"activations": ODD},
    "peepholes": {"peepholes": True},
    "recurrent dropout": {"recurrent_dropout": 0.25},
    "zoneout of h and c": {"zoneout_h": 0.1, "zoneout_c": 0.1},
    "projection to H/2": {"proj_size": "H/2"},
    "layer normalisation": {"layer_norm": True},
    EVERYTHING: {"coupled": True, "clip": 3.0, "activations": ODD, "peepholes": True, "recurrent_dropout": 0.25,
                 "zoneout_h": 0.1, "zoneout_c": 0.1, "proj_size": "H/2", "layer_norm": True},
}  # fmt: skip


class Contender:
    """One variant on one problem, in one dtype."""

    def __init__(self, name, problem, dtype):
        settings = dict(VARIANTS[name])
        if settings.get("proj_size"):
            settings["proj_size"] = max(1, problem.H // 2)
        self.general = name == GENERAL
        self.network = LSTM(problem.D, problem.H, **settings)
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
        if self.general:
            y, cache = variants.forward(self.x, self.h0, self.c0, Direction(*self.params[0]))
            return y, variants.backward(self.dh, None, None, cache)
        state = State(self.h0[None, ...], self.c0[None, ...])
        y, _, cache = self.network.forward(self.params, self.x, state, masks=self.masks)
        return y, self.network.backward(self.dh, cache)

    def engine(self):
        """What runs the recurrence."""
        if self.general or not self.network.plain or self.network.recurrent_dropout:
            return "general recurrence"
        p = self.params[0]
        return explain(self.x, self.h0, p.Wx, p.Wh, p.b, c0=self.c0).partition(":")[0]

    def _drawn(self):
        """The same masks in every dtype; None where the variant has none."""
        rng, needed = np.random.default_rng(1), ("recurrent_dropout", "zoneout_h", "zoneout_c")
        if not any(getattr(self.network, rate) for rate in needed):
            return None
        drawn = self.network.forward(self.params, self.x, rng=rng, training=False)[2].masks
        return Masks(*(kind and tuple(mask.astype(self.x.dtype) for mask in kind) for kind in drawn))


def check(problem):
    """Compare each variant's output with its own in float64, over few steps: the errors of some grow with each one."""
    steps = min(problem.T, 8)
    short = problem._replace(T=steps)
    for name in VARIANTS:
        narrow, wide = (Contender(name, short, dtype) for dtype in ("float32", "float64"))
        assert_close(narrow.training()[0], wide.training()[0], like=narrow.x, steps=steps, name=name)


def measure(size, rounds, seconds, say=lambda line: None):
    """The records of one size, one for each variant."""
    problem = Problem.of(size, "float32")
    contenders = {name: Contender(name, problem, "float32") for name in VARIANTS}
    check(problem)
    taken, names = {name: [] for name in VARIANTS}, list(VARIANTS)
    for number in range(rounds):
        say(f"{','.join(map(str, problem.size))}: round {number + 1} of {rounds}")
        for name in names[number % len(names) :] + names[: number % len(names)]:
            taken[name].append(times(contenders[name].training, seconds))
    found = []
    sizes = dict(zip("NTDH", problem.size, strict=True))
    for name, contender in contenders.items():
        about = {"contender": name, "what": "training", "size": problem.name, **sizes, "dtype": problem.dtype}
        about |= {"failed": "", "engine": contender.engine(), "rounds": rounds, "seconds": seconds}
        found.append(about | statistics(taken[name]))
    medians = {record["contender"]: record["median_s"] for record in found}
    for record in found:
        record["over_plain"] = record["median_s"] / medians[PLAIN]
        record["over_general"] = record["median_s"] / medians[GENERAL]
    return found


def table(found):
    """The records of all sizes as Markdown: a table for each size."""
    parts = []
    for size in dict.fromkeys(tuple(record[letter] for letter in "NTDH") for record in found):
        lines = [
            f"**N,T,D,H = {','.join(map(str, size))}**",
            "",
            "| cell | runs on | forward + backward, ms (quartiles) | over the plain cell | over the general one |",
            "| --- | --- | ---: | ---: | ---: |",
        ]
        for record in (record for record in found if tuple(record[letter] for letter in "NTDH") == size):
            low, middle, high = (milliseconds(record[key]) for key in ("q1_s", "median_s", "q3_s"))
            ratios = f"{record['over_plain']:.2f} | {record['over_general']:.2f}"
            lines.append(f"| {record['contender']} | {record['engine']} | {middle} ({low}-{high}) | {ratios} |")
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
