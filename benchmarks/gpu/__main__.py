"""The command line: `python -m benchmarks.gpu` measures, `... report` makes tables, `... choice` the engines' table."""

import argparse
import os
import shlex
import sys
import traceback
from pathlib import Path
from time import monotonic

from lstm_xp.engines.cuda import choice as quickest

from .. import records
from . import choice, programme, report, verdict
from .places import open_place

DESCRIPTION = """\
Prove and measure lstm_xp on one NVIDIA GPU, beside torch.nn.LSTM (cuDNN). Every part takes its share of the time; the
file is written every few seconds, so that what was measured survives.
"""

EPILOG = """\
parts, in this order:
  environment  GPU, clocks, driver, versions (always)
  compiling    all kernels, in parallel, into CuPy's cache on disk
  rivals       torch.nn.LSTM alone, of what `engines` measures (only when it is asked for)
  correctness  every engine, in every kind of numbers, over awkward shapes, against float64; same bits twice
  engines      every engine in alternating rounds with torch.nn.LSTM, eager and as a CUDA graph, over the whole grid:
               TF32, IEEE, bfloat16, float16
  latencies    launch, edge of a graph, barriers of grid and cluster, messages between blocks of a cluster
  ceilings     a copy in device memory; large products in every kind of numbers
  sanitizer    compute-sanitizer over a few small problems, if it is there

examples:
  python -m benchmarks.gpu --out gpu.json                 everything, in under six minutes
  python -m benchmarks.gpu --parts rivals --seconds 120   what cuDNN takes
  python -m benchmarks.gpu --rehearse                     on this CPU, in small: does it run? no figure counts
  python -m benchmarks.gpu report gpu.json --folder .     tables and a plot: gpu.md, gpu.svg
  python -m benchmarks.gpu choice gpu.json                let the package choose by these figures on such a device

exit status: 0; 1 wrong numbers; 2 no device, or a bad argument; 3 correctness was asked for, and nothing was proved,
or the programme itself failed; 130 after Ctrl-C.
"""


class Parser(argparse.ArgumentParser):
    """One-line errors."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def main(arguments=None):
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        command = {"report": make_report, "choice": make_choice}.get(arguments[0] if arguments else "")
        return command(arguments[1:]) if command else measure(arguments)
    except (programme.Missing, records.BadFile) as error:
        print(f"python -m benchmarks.gpu: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\npython -m benchmarks.gpu: stopped", file=sys.stderr)
        return 130
    except Exception:  # Python's own exit status would say that a number is wrong
        traceback.print_exc()
        return 3


def measure(arguments):
    """Run the programme."""
    parser = Parser(
        "python -m benchmarks.gpu", description=DESCRIPTION, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--out", metavar="FILE", help="write the results as JSON; FILE must not exist yet")
    parser.add_argument("--seconds", type=_seconds, default=320.0, help="for everything; default: 320")
    parser.add_argument(
        "--parts", nargs="+", choices=programme.SHARES, default=list(programme.DEFAULT), metavar="PART",
        help="of the list below; default: all but rivals",
    )  # fmt: skip
    parser.add_argument("--rehearse", action="store_true", help="on this CPU, at small sizes")
    options = parser.parse_args(arguments)
    if options.out:
        _check_new(options.out, parser)
    command = shlex.join(["python", "-m", "benchmarks.gpu", *arguments])
    start = monotonic()

    def write(result):
        result["command"] = command
        if options.out:
            programme.write(options.out, result)

    def say(text):
        print(f"{monotonic() - start:6.1f} s  {text}", file=sys.stderr, flush=True)

    place = open_place("cpu" if options.rehearse else "cuda")
    result = programme.run(place, options.parts, options.seconds, write, say)
    print(report.summary(result))
    for line in verdict.wrong(result):
        print(f"WRONG: {line}", file=sys.stderr)
    return verdict.exit_status(result)


def make_report(arguments):
    """Tables, and a plot where matplotlib is there."""
    parser = Parser("python -m benchmarks.gpu report", description="Markdown tables and a plot of a file of results.")
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--folder", metavar="FOLDER", help="write NAME.md and a plot there, instead of to stdout")
    options = parser.parse_args(arguments)
    result = programme.read(options.file)
    if not options.folder:
        print(report.markdown(result))
        return 0
    folder, stem = Path(options.folder), Path(options.file).stem
    if not folder.is_dir():
        parser.error(f"--folder: there is no folder {folder}")
    drawn = report.draw(result, folder / f"{stem}.svg")
    title = f"# {stem}\n\n<!-- made by python -m benchmarks.gpu report; do not edit -->\n\n"
    picture = f"![{report.PLOT_TITLE}]({stem}.svg)\n\n" if drawn else ""
    records.replace(folder / f"{stem}.md", title + picture + report.markdown(result))
    return 0


def make_choice(arguments):
    """The table by which the package chooses among its engines for CuPy."""
    parser = Parser("python -m benchmarks.gpu choice", description="Choose engines by files of results from now on.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="of one device: their records count together")
    parser.add_argument("--into", metavar="TABLE", default=str(quickest.FILE), help="default: the package's own")
    options = parser.parse_args(arguments)
    result = choice.joined([programme.read(file) for file in options.files])
    device = choice.add(result, Path(options.into), ", ".join(options.files))
    print(f"{options.into}: {device}")
    return 0


def _check_new(file, parser):
    path = Path(file)
    if path.exists():
        parser.error(f"--out: {file} exists; give another name, or delete it first")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        parser.error(f"--out: cannot write into the folder {path.parent}")


def _seconds(text):
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value <= 1e6:
        raise argparse.ArgumentTypeError(f"must be a number of seconds from 1 on; got {text!r}")
    return value


if __name__ == "__main__":
    sys.exit(main())
