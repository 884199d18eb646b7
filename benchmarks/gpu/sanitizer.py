"""compute-sanitizer over a few small problems with each engine: reads and writes out of bounds, races."""

import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryFile

from lstm_xp import engines

from .. import machine

# With options: a call of CUDA's that fails, as CuPy's question for an attribute that a device does not have, is no
# error of a kernel.
TOOLS = {"memcheck": ("--report-api-errors", "no"), "racecheck": ()}
# What compute-sanitizer exits with if it found something: nobody else does.
FOUND = 86
# Every tool looks at every engine in a process of its own, all at the same time, and each for so long.
SECONDS = 30


def units(place):
    return [{}]


def run(unit, place):
    """A record for each engine and tool."""
    # The reference engine has no kernels of its own.
    names = [name for name in engines.candidates(place.array_library) if name != "array_api"]
    pairs = [{"engine": name, "tool": tool} for tool in TOOLS for name in names]
    with ThreadPoolExecutor(len(pairs)) as pool:
        found = list(pool.map(lambda pair: watch(place, **pair), pairs))
    return [pair | record for pair, record in zip(pairs, found, strict=True)]


def watch(place, engine, tool):
    """Clean, or what was found, or why nobody looked."""
    command = binary()
    if command is None:
        return {"refused": "compute-sanitizer is not installed"}
    if place.rehearsal:
        return {"refused": "it needs a GPU"}
    asked = [
        command, "--tool", tool, *TOOLS[tool],
        "--error-exitcode", str(FOUND), "--target-processes", "all",
        sys.executable, "-m", "benchmarks.gpu.tiny", engine,
    ]  # fmt: skip
    # Into a file: whoever the tool has started may hold a pipe open when the tool itself is ended.
    with TemporaryFile("w+") as output:
        try:
            status = subprocess.run(
                asked, stdout=output, stderr=output, timeout=SECONDS, env=machine.environment(), cwd=machine.ROOT
            ).returncode
        except subprocess.TimeoutExpired:
            status = None
        output.seek(0)
        found = verdict(status, output.read())
    if status is None and "wrong" not in found:
        return {"refused": f"took longer than {SECONDS} s"}
    return found


def binary():
    """Where compute-sanitizer is, or None."""
    usual = ("/usr/local/cuda/bin/compute-sanitizer", "/usr/local/cuda/compute-sanitizer/compute-sanitizer")
    return shutil.which("compute-sanitizer") or next((file for file in usual if Path(file).is_file()), None)


def verdict(status, output):
    """What an exit status and what was printed mean.

    A device that it cannot watch is no finding, though the calls that fail then count as errors.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    tail = lines[-12:]
    errors = [int(count) for count in re.findall(r"ERROR SUMMARY: (\d+) error", output)]
    hazards = [int(count) for count in re.findall(r"RACECHECK SUMMARY: (\d+) hazard", output)]
    if any(hazards) or re.search(r"Invalid __|Misaligned|out of bounds", output):
        return {"wrong": f"compute-sanitizer found {sum(errors + hazards) or 'some'} errors", "output": tail}
    if re.search(r"device not supported|failed to initialize", output, re.IGNORECASE):
        return {"refused": "it does not work on this device", "output": tail}
    if status == FOUND or any(errors):
        return {"wrong": f"compute-sanitizer found {sum(errors) or 'some'} errors", "output": tail}
    if status == 0 and (errors or hazards) and re.search(r"\d+ problems", output):
        return {"clean": next(line for line in lines if line.endswith(" problems"))}
    return {"refused": f"ended with exit status {status}", "output": tail}
