"""The command line: `python -m benchmarks` measures, `python -m benchmarks report` makes tables of the results."""

import argparse
import os
import shlex
import sys
from pathlib import Path
from time import monotonic

from lstm_xp import engines

from . import ceiling, machine, records, report, rivals, runner
from .problems import GROWTH, SIZES, WHATS, Problem

DESCRIPTION = """\
Measure LSTMs on this machine, each contender in a process of its own, in alternating rounds.
Every contender is compared with a float64 reference before it is timed.
"""

EPILOG = """\
examples:
  python -m benchmarks --out today.jsonl                     all eleven sizes, about ten minutes
  python -m benchmarks --sizes n64-h512 --what training      one size, forward + backward
  python -m benchmarks --sizes 8,100,64,128 32,50,64,128     sizes of your own: N,T,D,H
  python -m benchmarks --sizes growth --contenders lstm_xp   how time grows with N and T, by doublings
  python -m benchmarks --contenders lstm_xp lstm_xp:array_api torch_cpu
  python -m benchmarks --contenders lstm_xp my_rival.py      your own contender: see benchmarks/rivals/__init__.py
  python -m benchmarks report today.jsonl --into benchmarks/README.md

contenders:
  lstm_xp            this package, with the engine that it chooses by itself
  lstm_xp:ENGINE     with one of: {engines}
  {rivals}

sizes (N,T,D,H):
{sizes}
  standard           the sizes above
  growth             doublings of N, then of T

Tables go to stdout, progress to stderr. Exit status: 0; 1 if a contender's numbers were wrong or it failed; 2 for a
bad argument. Close other programs first: a busy core is worth more than any difference between contenders.
"""


class Parser(argparse.ArgumentParser):
    """One-line errors."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def main(arguments=None):
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments[:1] == ["report"]:
            return make_report(arguments[1:])
        return run(arguments)
    except records.BadFile as error:
        print(f"python -m benchmarks: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\npython -m benchmarks: stopped", file=sys.stderr)
        return 130


def run(arguments):
    """Measure."""
    parser = Parser(
        "python -m benchmarks",
        description=DESCRIPTION,
        epilog=EPILOG.format(
            engines=", ".join(engines.names()),
            rivals="\n  ".join(rivals.names()),
            sizes="\n".join(f"  {name:<18} {','.join(map(str, size))}" for name, size in SIZES.items()),
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sizes", nargs="+", default=["standard"], metavar="SIZE", help="default: standard")
    parser.add_argument(
        "--contenders", nargs="+", default=["lstm_xp", *rivals.names()], metavar="NAME",
        help="the first one is what the others are compared with; default: lstm_xp and every rival that is installed",
    )  # fmt: skip
    parser.add_argument(
        "--what", nargs="+", choices=WHATS, default=["inference", "forward", "training"], metavar="WHAT",
        help="; ".join(f"{what}: {meaning}" for what, meaning in WHATS.items()) + "; default: all but step",
    )  # fmt: skip
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--rounds", type=_number(int, 1), default=5, help="default: 5")
    parser.add_argument(
        "--seconds", type=_number(float, 0.0), default=0.5,
        help="spent in each round on each time, at least two calls; default: 0.5",
    )  # fmt: skip
    parser.add_argument("--out", metavar="FILE", help="write the results as JSON lines; FILE must not exist yet")
    options = parser.parse_args(arguments)

    problems = [Problem.of(size, options.dtype) for size in _sizes(options.sizes, parser)]
    names = list(dict.fromkeys(options.contenders))
    for name in names:
        _check_contender(name, parser)
    if options.out:
        _check_new(options.out, parser)
    say = Progress(sys.stderr)
    if machine.load() > machine.cores() / 4:
        say.line(f"{machine.load():.1f} threads of other programs ran in the last minute: expect noise")

    workers, absent = runner.start([*names, ceiling.name], say)
    *workers, gauge = workers
    for name, reason in absent.items():
        say.line(f"{name} is left out: {reason}")
    command = shlex.join(["python", "-m", "benchmarks", *arguments])
    where = {**machine.describe(), "command": command, "absent": absent}
    found = []
    try:
        if not workers:
            parser.error("no contender can be loaded")
        for number, problem in enumerate(problems, start=1):
            whats = [what for what in WHATS if what in options.what]
            new = runner.measure(problem, whats, workers, gauge, options.rounds, options.seconds, say)
            found += [{**record, "machine": where} for record in new]
            # After each size, so that an interrupted run leaves what it has.
            if options.out:
                records.write(options.out, found)
            say.line(f"{number} of {len(problems)}: {problem.name} done after {monotonic() - say.start:.0f} s")
    except runner.Failed as failure:
        say.line(f"python -m benchmarks: {failure}")
        return 1
    finally:
        for worker in [*workers, gauge]:
            worker.close()
    report.show(found, sys.stdout)
    return int(any(record["failed"] for record in found))


def make_report(arguments):
    """Markdown from files of results."""
    parser = Parser("python -m benchmarks report", description="Markdown tables from files that --out made.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="one run each")
    parser.add_argument(
        "--into", metavar="FILE", help=f"put them between {report.BEGIN} and {report.END} there; default: to stdout"
    )
    options = parser.parse_args(arguments)
    text = report.markdown([records.read(file) for file in options.files])
    if options.into:
        report.insert(options.into, text)
    else:
        print(text)
    return 0


class Progress:
    """One line that changes, on a terminal; finished lines only, elsewhere."""

    def __init__(self, stream):
        self.stream, self.start = stream, monotonic()

    def __call__(self, text):
        if self.stream.isatty():
            print(f"\r\033[K{text}", end="", file=self.stream, flush=True)

    def line(self, text):
        self("")
        print(text, file=self.stream, flush=True)


def _sizes(asked, parser):
    groups = {"standard": list(SIZES), "growth": [size for sizes in GROWTH.values() for size in sizes]}
    sizes = []
    for size in asked:
        if size in groups:
            sizes += groups[size]
        elif size in SIZES:
            sizes.append(size)
        else:
            numbers = size.split(",")
            if len(numbers) != 4 or not all(n.isdecimal() and int(n) > 0 for n in numbers):
                known = ", ".join([*groups, *SIZES])
                parser.error(f"--sizes: {size!r} is neither four positive numbers N,T,D,H nor one of {known}")
            sizes.append(tuple(map(int, numbers)))
    # One size under two names is one size.
    return list({(SIZES[size] if size in SIZES else size): size for size in reversed(sizes)}.values())[::-1]


def _check_contender(name, parser):
    head, colon, option = name.partition(":")
    if name.endswith(".py"):
        if not Path(name).is_file():
            parser.error(f"--contenders: there is no file {name}")
    elif head == "lstm_xp":
        if colon and option not in engines.names():
            parser.error(f"--contenders: lstm_xp has no engine {option!r}, but {', '.join(engines.names())}")
    elif head not in rivals.names():
        known = ", ".join(["lstm_xp", "lstm_xp:ENGINE", *rivals.names()])
        parser.error(f"--contenders: {name!r} is neither one of {known} nor a file FILE.py")


def _check_new(file, parser):
    path = Path(file)
    if path.exists():
        parser.error(f"--out: {file} exists; give another name, or delete it first")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        parser.error(f"--out: cannot write into the folder {path.parent}")


def _number(kind, least):
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not least <= value < 1e6:
            raise argparse.ArgumentTypeError(f"must be a number from {least} on; got {text!r}")
        return value

    return parse


if __name__ == "__main__":
    sys.exit(main())
