"""The command line: `python -m benchmarks` measures, `python -m benchmarks report` makes tables of the results."""

import argparse
import os
import shlex
import sys
from pathlib import Path
from time import monotonic

from lstm_xp import engines

from . import ceiling, fresh, machine, records, report, rivals, runner
from .arguments import numbers
from .ours import FROZEN
from .problems import FRESH, GROWTH, SIZES, SMALL, START, WHATS, Problem

DESCRIPTION = """\
Measure LSTMs on this machine, each contender in a process of its own, in alternating rounds.
Every contender is compared with a float64 reference before it is timed.
"""

EXAMPLES = """\
  python -m benchmarks --out today.jsonl                     everything, at eleven sizes: some twenty minutes
  python -m benchmarks report today.jsonl --folder .         its tables and plots: today.md and images beside it
  python -m benchmarks --sizes small --rounds 1 --seconds 0  a minute: is everybody installed, and right?
  python -m benchmarks --sizes n64-h512 --what training      one size, forward + backward
  python -m benchmarks --sizes 8,100,64,128 32,50,64,128     sizes of your own: N,T,D,H
  python -m benchmarks --what memory start                   peak memory; time to import and to the first result
  python -m benchmarks --what step --rivals onnxruntime      streaming, against one rival
  python -m benchmarks --sizes growth --what inference training --rivals torch_cpu onnxruntime
                                                             how time grows with N, T and H, by doublings
  python -m benchmarks --contenders lstm_xp:numpy_numba lstm_xp:numpy_fused torch_cpu
                                                             engines by name, against each other
  python -m benchmarks --rivals my_rival.py                  a rival of your own: see benchmarks/rivals/__init__.py
  python -m benchmarks --device cuda --out gpu.jsonl         CuPy arrays, and the rivals that run on a GPU
"""

EPILOG = """\
examples:
{examples}
contenders:
  lstm_xp            this package, with the engine that it chooses by itself
  lstm_xp:ENGINE     with one of: {engines}
  lstm_xp:frozen     with weights that are constants, prepared once
  {rivals}
  FILE.py            one of your own

sizes (N,T,D,H):
{sizes}
  standard           the sizes above
  growth             doublings of N, of T, and of H = D at N = 1, 8, 64
  small              two tiny ones

what:
{whats}

Tables go to stdout, progress to stderr. The file of --out is written anew after each size: Ctrl-C keeps what was
measured. Exit status: 0; 1 if lstm_xp or a contender that was named gave wrong numbers or none; 2 for a bad argument;
130 after Ctrl-C. Close other programs first: a busy core is worth more than any difference between contenders.
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
    parser = run_parser()
    options = parser.parse_args(arguments)
    names = _contenders(options, parser)
    if options.out:
        _check_new(options.out, parser)
    problems = [Problem.of(size, options.dtype, options.device) for size in _sizes(options.sizes, parser)]
    timed = [problem for problem in problems if problem.timed(options.what)]
    remembered = [problem for problem in problems if "memory" in options.what and problem.remembered()]
    if not timed and not remembered and "start" not in options.what:
        parser.error(f"nothing to measure: {'; '.join(f'{what} is {(WHATS | FRESH)[what]}' for what in options.what)}")

    say = Progress(sys.stderr)
    workers, absent = runner.start([*names, ceiling.name], options.device, say)
    try:
        # Without lstm_xp there is nothing to compare with, and on a GPU without CuPy nothing at all.
        for needed in (names[0], ceiling.name):
            if needed in absent:
                say("")
                parser.error(f"{needed} cannot run on the device {options.device}: {absent[needed]}")
        gauge, contenders = workers[-1], workers[:-1]
        for name, reason in absent.items():
            say.line(f"{name} is left out: {reason}")
        if machine.load() > machine.cores() / 4:
            say.line(f"{machine.load():.1f} threads of other programs ran in the last minute: expect noise")
        command = shlex.join(["python", "-m", "benchmarks", *arguments])
        where = {**machine.describe(), "command": command, "absent": absent}
        found, status = [], 0
        try:
            for new, done in _measure(options, timed, remembered, contenders, gauge, say):
                found += [{**record, "machine": where} for record in new]
                if options.out:
                    records.write(options.out, found)
                say.line(f"{done}, after {monotonic() - say.start:.0f} s")
        except runner.Failed as failure:
            say.line(f"python -m benchmarks: {failure}")
            status = 1
        except KeyboardInterrupt:
            say.line("python -m benchmarks: stopped; what was measured follows")
            status = 130
    finally:
        for worker in workers:
            worker.close()
    if found:
        report.show(found, sys.stdout)
    asked = {names[0], *(options.contenders or options.rivals or ())}
    return status or int(any(record["failed"] for record in found if record["contender"] in asked))


def _measure(options, timed, remembered, contenders, gauge, say):
    """Records, part by part, each with what was done: whoever takes them has them, also if the next part fails."""
    for number, problem in enumerate(timed, start=1):
        whats = problem.timed(options.what)
        new = runner.measure(problem, whats, contenders, gauge, options.rounds, options.seconds, say)
        yield new, f"times, {number} of {len(timed)}: {problem.name}"
    for worker in [*contenders, gauge]:
        worker.close()  # from here on, each has new processes, and the machine is to be empty
    names = [worker.name for worker in contenders]
    for number, problem in enumerate(remembered, start=1):
        yield fresh.memory(problem, names, say), f"memory, {number} of {len(remembered)}: {problem.name}"
    if "start" in options.what:
        problem = Problem.of(START, options.dtype, options.device)
        yield fresh.start(problem, names, options.rounds, say), "start"


def run_parser():
    """The options of a measurement."""
    whats = WHATS | FRESH
    parser = Parser(
        "python -m benchmarks",
        description=DESCRIPTION,
        epilog=EPILOG.format(
            examples=EXAMPLES,
            engines=", ".join(engines.names()),
            rivals="\n  ".join(rivals.names()),
            sizes="\n".join(f"  {name:<18} {','.join(map(str, size))}" for name, size in SIZES.items()),
            whats="\n".join(f"  {what:<18} {meaning}" for what, meaning in whats.items()),
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    who = parser.add_mutually_exclusive_group()
    who.add_argument(
        "--rivals", nargs="*", metavar="NAME",
        help="lstm_xp against these; default: against every rival of the device; no NAME: lstm_xp alone",
    )  # fmt: skip
    who.add_argument(
        "--contenders", nargs="+", metavar="NAME",
        help="instead of --rivals, all contenders: the first one is what the others are compared with",
    )  # fmt: skip
    parser.add_argument("--sizes", nargs="+", default=["standard"], metavar="SIZE", help="default: standard")
    parser.add_argument(
        "--what", nargs="+", choices=whats, default=list(whats), metavar="WHAT",
        help="of the list below; default: all of it",
    )  # fmt: skip
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="default: float32")
    parser.add_argument(
        "--rounds", type=_number(int, 1), default=5, help="for start: processes of each contender; default: 5"
    )
    parser.add_argument(
        "--seconds", type=_number(float, 0.0), default=0.3,
        help="spent in each round on each time, at least two calls; default: 0.3",
    )  # fmt: skip
    parser.add_argument("--out", metavar="FILE", help="write the results as JSON lines; FILE must not exist yet")
    return parser


def make_report(arguments):
    """Markdown from files of results, and plots."""
    parser = report_parser()
    options = parser.parse_args(arguments)
    runs = {Path(file).stem: records.read(file) for file in options.files}
    if len(runs) < len(options.files):
        parser.error("two of the files have one name, and would have one report")
    if options.folder and not Path(options.folder).is_dir():
        parser.error(f"--folder: there is no folder {options.folder}")
    beside = Path(options.into).parent if options.into else None
    shorts = []
    for stem, run in runs.items():
        if not options.folder:
            shown, whole = [], None
            if not options.into:
                print(report.markdown(run))
        else:
            shown, whole = _draw(run, options.folder, stem), Path(options.folder, f"{stem}.md")
            title = f"# {stem}\n\n<!-- made by python -m benchmarks report; do not edit -->\n\n"
            records.replace(whole, title + report.markdown(run, shown, options.folder))
        shorts.append(report.short(run, shown, beside, whole))
    if options.into:
        report.insert(options.into, "\n".join(shorts))
    return 0


def _draw(run, folder, stem):
    """The plots of a run as (title, file), or none, in words, without matplotlib."""
    try:
        from . import plots
    except ModuleNotFoundError as error:
        print(f"plots are left out: {error.name} is not installed (pip install {error.name})", file=sys.stderr)
        return []
    return plots.write(run, folder, stem)


def report_parser():
    """The options of a report."""
    parser = Parser(
        "python -m benchmarks report",
        description="Markdown tables and plots from files that --out made; without an option, tables to stdout.",
        epilog="example:\n  python -m benchmarks report benchmarks/results/cpu-float32.jsonl "
        "--folder benchmarks/results --into benchmarks/README.md",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="one run each")
    parser.add_argument("--folder", metavar="FOLDER", help="write each run's report, NAME.md, and plots there")
    parser.add_argument(
        "--into", metavar="FILE", help=f"put the ratios between {report.BEGIN} and {report.END} of a text"
    )
    return parser


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
    groups = {"standard": list(SIZES), "growth": [size for sizes in GROWTH.values() for size in sizes], "small": SMALL}
    sizes = []
    for size in asked:
        if size in groups:
            sizes += groups[size]
        elif size in SIZES:
            sizes.append(size)
        else:
            try:
                sizes.append(numbers(size))
            except argparse.ArgumentTypeError:
                known = ", ".join([*groups, *SIZES])
                parser.error(f"--sizes: {size!r} is neither four positive numbers N,T,D,H nor one of {known}")
    # One size under two names is one size.
    return list({(SIZES[size] if size in SIZES else size): size for size in reversed(sizes)}.values())[::-1]


def _contenders(options, parser):
    if options.contenders:
        option, names = "--contenders", options.contenders
    else:
        option, asked = "--rivals", options.rivals
        names = ["lstm_xp", *(rivals.names(options.device) if asked is None else asked)]
    for name in names:
        head, colon, engine = name.partition(":")
        if name.endswith(".py"):
            if not Path(name).is_file():
                parser.error(f"{option}: there is no file {name}")
        elif head == "lstm_xp":
            if colon and engine not in (*engines.names(), FROZEN):
                parser.error(f"{option}: lstm_xp has no engine {engine!r}, but {', '.join(engines.names())}")
        elif name not in rivals.names():
            known = ", ".join(["lstm_xp", "lstm_xp:ENGINE", f"lstm_xp:{FROZEN}", *rivals.names()])
            parser.error(f"{option}: {name!r} is neither one of {known} nor a file FILE.py")
    return list(dict.fromkeys(names))


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
