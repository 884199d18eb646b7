"""The programme: its parts, what of the time each may take, and the file that is written all along."""

import json
import os
import signal
import subprocess
import sys
from collections import deque
from contextlib import suppress
from threading import Timer
from time import monotonic

from .. import machine, records, runner
from . import worker

FORMAT = "lstm_xp GPU measurements, 1"
# Part -> its share of the time, about as many seconds as it takes on an H200; the most valuable first: what an engine
# takes is worth knowing only if it is right. What one part leaves over goes to those after it: some of the
# environment's, which may have to load torch from a cold disk.
SHARES = {
    "environment": 10,
    "compiling": 40,
    "rivals": 100,
    "correctness": 60,
    "engines": 210,
    "latencies": 4,
    "ceilings": 8,
    "sanitizer": 33,
}
# `engines` measures what `rivals` does, and more.
DEFAULT = tuple(name for name in SHARES if name != "rivals")
# A piece of work may take so much longer than what is left: it is not to be lost for a second.
GRACE = 5.0
# But a kernel that waits for ever may not take the others' time: the first piece of a process, which loads libraries
# and compiles, has so long, and each later one so long.
FIRST, LATER = 90.0, 40.0
# The file is written at the end of each part, and within it about so often.
SECONDS_BETWEEN_WRITES = 2.0


class Missing(Exception):
    """There is no device; the message says so in one line."""


class Budget:
    """Seconds, handed out to parts by their shares of what is left."""

    def __init__(self, seconds, parts, clock=monotonic):
        self.clock, self.waiting = clock, list(parts)
        self.end = clock() + seconds

    def left(self):
        """Seconds, at least 0."""
        return max(0.0, self.end - self.clock())

    def part(self, name):
        """When a part has to end: parts are asked for in their order, each once."""
        share = SHARES[name] / sum(SHARES[waiting] for waiting in self.waiting)
        self.waiting.remove(name)
        return self.clock() + share * self.left()


class Process(runner.Worker):
    """The parent's end of a `benchmarks.gpu.worker` process."""

    def start(self):
        # CUB's sums, which no engine uses, are compiled anew for many a length of an axis, for seconds each.
        environment = machine.environment() | {"CUPY_ACCELERATORS": ""}
        # A session of its own: what it has started ends with it.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu.worker", self.name, self.device], env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", cwd=machine.ROOT, start_new_session=True,
        )  # fmt: skip

    def kill(self):
        """End it, and what it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def close(self):
        self.kill()
        super().close()

    def ask(self, unit, seconds):
        """The answer to a piece of work, which has so many seconds; `Failed` if there is none."""
        late = []
        timer = Timer(seconds, lambda: (late.append(True), self.kill()))
        timer.start()
        try:
            print(json.dumps(unit), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            status = self.process.wait()
            raise runner.Failed("out of time" if late else f"its process ended with exit status {status}")
        return json.loads(line)


def run(place, parts, seconds, write, say, clock=monotonic, start=Process):
    """Do the parts; `write(result)` all along. Returns the result, a dict for JSON.

    Raises
    ------
    Missing
        If there is no device. The environment, which comes first, finds that out.
    """
    parts = [name for name in SHARES if name in parts or name == "environment"]
    budget = Budget(seconds, parts, clock)
    result = {"format": FORMAT, "rehearsal": place.rehearsal, "seconds": seconds, "machine": machine.describe()}
    result |= {"parts": {}, "records": []}
    try:
        for name in parts:
            say(name)
            _run_part(name, place, budget, result, write, say, start)
            counts = result["parts"][name]
            say(f"{name}: {counts['done']} of {counts['units']} done in {counts['seconds']:.0f} s")
    except KeyboardInterrupt:
        result["interrupted"] = True
        write(result)
        raise
    return result


def _run_part(name, place, budget, result, write, say, start):
    part = worker.part_of(name)
    units = deque(part.units(place))
    began, end = budget.clock(), budget.part(name)
    counts = result["parts"][name] = {"units": len(units), "done": 0, "seconds": 0.0, "out_of_time": []}
    process, written = None, began
    try:
        while units:
            unit, left = units.popleft(), end - budget.clock()
            if left <= 0:
                counts["out_of_time"] = [unit, *units]
                break
            patience = LATER if process else FIRST
            process = process or start(name, place.name)
            try:
                answer = process.ask(unit, min(left + GRACE, patience))
            except runner.Failed as failure:
                answer = {"failed": str(failure), "broken": True}
            if answer.get("missing"):
                raise Missing(answer["failed"])
            if "failed" in answer:
                say(f"{name}: {_words(unit)}: {answer['failed']}")
            found = answer.get("records", [{"failed": answer.get("failed")}])
            result["records"] += [{"part": name, **unit, **record} for record in found]
            if answer.get("broken"):
                process.close()
                process = None
                if hasattr(part, "smaller") and (smaller := part.smaller(unit)):
                    units.appendleft(smaller)
                    counts["units"] += 1
            counts["done"] += 1
            now = budget.clock()
            counts["seconds"] = now - began
            if now - written > SECONDS_BETWEEN_WRITES:
                write(result)
                written = now
    finally:
        if process is not None:
            process.close()
    write(result)


def _words(unit):
    return " ".join(str(value) for value in unit.values())


def read(file):
    """A result from its file; `records.BadFile` if it is none."""
    try:
        with open(file, encoding="utf-8") as stream:
            result = json.load(stream)
    except (OSError, UnicodeDecodeError) as error:
        raise records.BadFile(f"{file}: {getattr(error, 'strerror', None) or 'not a text'}") from None
    except json.JSONDecodeError:
        raise records.BadFile(f"{file}: not JSON; make one with python -m benchmarks.gpu --out") from None
    if not isinstance(result, dict) or result.get("format") != FORMAT:
        raise records.BadFile(f"{file}: its format is not {FORMAT!r}; make one with python -m benchmarks.gpu --out")
    return result


def write(file, result):
    """A result into its file, at one blow."""
    records.replace(file, json.dumps(result) + "\n")
