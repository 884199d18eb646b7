"""The process that one part works in: `python -m benchmarks.gpu.worker PART PLACE`.

It takes a piece of work per line, and gives an answer per line: {"records": [...]}, or {"failed": ...} in one line,
with "broken" if the device will do nothing more for this process. The programme starts another one then.
"""

import gc
import json
import os
import signal
import sys
from importlib import import_module

from ..worker import one_line
from .places import NoDevice, open_place

# Part -> where it is.
PARTS = {
    "environment": "environment",
    "compiling": "compiling",
    "ceilings": "ceilings",
    "latencies": "latencies",
    "rivals": "timed:RIVALS",
    "correctness": "correctness",
    "engines": "timed:ENGINES",
    "sanitizer": "sanitizer",
}


def part_of(name):
    """The module, or the object of a module, that is a part."""
    module, _, inner = PARTS[name].partition(":")
    module = import_module(f"{__package__}.{module}")
    return getattr(module, inner) if inner else module


def answer(part, unit, place):
    """What one piece of work gives."""
    try:
        return {"records": part.run(unit, place)}
    except NoDevice as missing:
        return {"failed": f"no CUDA device: {missing}", "missing": True}
    except Exception as error:
        return {"failed": one_line(error), "broken": place.broken(error)}


def main(name, place):
    # Ctrl-C is for the parent; what a library prints must not get between the answers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    part, place = part_of(name), open_place(place)
    for number, line in enumerate(sys.stdin):
        print(json.dumps(answer(part, json.loads(line), place)), file=answers, flush=True)
        if number == 0:  # libraries are there: collections, of which there are many, need not look through them
            gc.collect()
            gc.freeze()


if __name__ == "__main__":
    main(*sys.argv[1:])
