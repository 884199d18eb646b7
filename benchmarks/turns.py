"""What programs share that measure each of several things in processes of its own, in turn."""

import json
import subprocess
import sys
from statistics import median
from time import perf_counter

from . import machine, records
from .tables import milliseconds


def taken(call, seconds, before=lambda: None):
    """Seconds that each of many calls took, two at least; what comes before each is not timed."""
    call()
    times, end = [], perf_counter() + seconds
    while len(times) < 2 or perf_counter() < end:
        before()
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return times


def ask(program, who, asked, environment=None):
    """The median of the times that a fresh process of a program prints, which is asked by --one."""
    command = [sys.executable, "-m", f"benchmarks.{program}", "--one", json.dumps(asked)]
    done = subprocess.run(command, env=environment or machine.environment(), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{who}: {done.stderr.strip()}")
    return median(json.loads(done.stdout))


def rounds(count, size, things, measure):
    """For each thing, what `measure(thing)` found in so many rounds, for a record."""
    found = {thing: [] for thing in things}
    for number in range(count):
        for thing, medians in found.items():
            words = thing if isinstance(thing, str) else ", ".join(thing)
            print(f"{size}: round {number + 1} of {count}, {words}", file=sys.stderr)
            medians.append(measure(thing))
    return {thing: {"median_s": median(medians), "round_medians_s": medians} for thing, medians in found.items()}


def run(args, things, measure, about, table):
    """All sizes of a program, written and printed; its exit status.

    `measure(thing, size)` is the median of a process, `about(thing, size)` what a record says of it, and `table(found)`
    the records as Markdown.
    """
    common, found = {"machine": machine.describe(), "dtype": "float32", "failed": ""}, []
    for size in args.sizes:
        measured = rounds(args.rounds, size, things, lambda thing, size=size: measure(thing, size))
        named = common | {"size": ",".join(map(str, size))}
        found += [named | about(thing, size) | record for thing, record in measured.items()]
        if args.out:
            records.write(args.out, found)
    print(f"Milliseconds:\n\n{table(found)}")
    return 0


def table(first, columns, rows):
    """Markdown of milliseconds: for each row the names in its first columns, and the record of each column, or None."""
    lines = [(*first, *columns), ("---",) * len(first) + ("---:",) * len(columns)]
    for names, found in rows:
        lines.append((*names, *("-" if record is None else milliseconds(record["median_s"]) for record in found)))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
