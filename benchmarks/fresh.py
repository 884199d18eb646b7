"""What only a fresh process can tell: the peak memory of one call, the time to import and to a first result."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from . import machine
from .problems import REMEMBERED
from .runner import ABOUT, Failed, Worker, reference_file, sizes


def memory(problem, names, say):
    """One record per contender and kind of work that it offers, each from a process of its own."""
    records = []
    with tempfile.TemporaryDirectory() as folder:
        say(f"{problem.name}: float64 reference")
        reference = reference_file(problem, REMEMBERED, Path(folder, "reference.npz"))
        for name in names:
            for what in REMEMBERED:
                say(f"{problem.name}: memory of {name} {what}")
                record = {"contender": name, "what": "memory", "of": what, **sizes(problem), "failed": None}
                try:
                    found = _memory(problem, name, what, reference)
                except Failed as failure:
                    record["failed"] = str(failure)
                else:
                    if found["peak_bytes"] is None:
                        continue
                    record |= {key: found[key] for key in ("peak_bytes", "peak_by", *ABOUT)}
                records.append(record)
    return records


def _memory(problem, name, what, reference):
    worker = Worker(name, problem.device)
    try:
        worker.open(problem, [], None)
        return worker.ask(do="memory", what=what, reference=reference)
    finally:
        worker.close()


def medians(said, keys):
    """Of numbers that several processes of a contender said, as a program says them that is run again.

    The first process is not counted: it leaves files in the system's cache, and compiled code where Python and other
    libraries keep it.
    """
    return {key: median(one[key] for one in said[1:]) for key in keys}


def start(problem, names, processes, say):
    """One record per contender: medians over so many processes beside the first, the contenders taking turns."""
    found, failures = {name: [] for name in names}, {}
    with tempfile.TemporaryDirectory() as folder:
        reference = reference_file(problem, ["inference"], Path(folder, "reference.npz"))
        for number in range(processes + 1):
            for name in (name for name in names if name not in failures):
                say(f"start: process {number} of {processes}, {name}")
                try:
                    found[name].append(_start(problem, name, reference))
                except Failed as failure:
                    failures[name] = str(failure)
    records = []
    for name in names:
        record = {"contender": name, "what": "start", **sizes(problem), "failed": failures.get(name)}
        if not record["failed"]:
            keys = "import_s", "first_result_s"
            record |= medians(found[name], keys)
            record |= {f"all_{key}": [one[key] for one in found[name][1:]] for key in keys}
        records.append(record)
    return records


def _start(problem, name, reference):
    command = [sys.executable, "-m", "benchmarks.start", name, json.dumps(problem._asdict()), reference]
    done = subprocess.run(command, env=machine.environment(), capture_output=True, text=True)
    if done.returncode:
        raise Failed((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])
    return json.loads(done.stdout.splitlines()[-1])
