"""The process that one contender lives in: `python -m benchmarks.worker CONTENDER`.

It takes one JSON request per line and gives one JSON answer per line, until its input ends:

    {"do": "load", "device": ...}                          import the contender
    {"do": "open", "problem": ..., "whats": ..., "reference": FILE or null}
                                                           prepare a problem, compare what it does with the reference
    {"do": "time", "what": ..., "seconds": ...}            a list of times
    {"do": "memory", "what": ..., "reference": FILE}       peak bytes, of a problem that was opened with nothing to do

An answer with "failed" says in one line why there is none. One process each, because two thread pools (OpenBLAS,
OpenMP) in one process spin against each other, and stall small work for milliseconds.
"""

import json
import os
import signal
import sys

import numpy as np

from . import ceiling, machine, memory, rivals
from .problems import Problem
from .reference import WrongNumbers, check
from .timing import rest, times


class Server:
    """Answers requests for one contender."""

    def __init__(self, name):
        self.name = name

    def load(self, device):
        self.module, self.option = (ceiling, "") if self.name == ceiling.name else rivals.load(self.name)
        reason = rivals.refusal(self.module, device, self.option)
        if reason:
            raise rivals.Refused(reason)
        return {}

    def open(self, problem, whats, reference):
        self.contender = None  # gives back the last problem's memory first
        self.problem = Problem(**problem)
        self.contender = self.module.Contender(self.problem, self.problem.arrays(), self.option)
        errors, failed = {}, {}
        if reference is not None:
            expected = dict(np.load(reference))
            for what in (what for what in whats if hasattr(self.contender, what)):
                try:
                    result = getattr(self.contender, what)()
                    errors[what] = check(self.problem, self.contender, what, result, expected)
                except Exception as error:
                    failed[what] = one_line(error)
        rest()
        return {"errors": errors, "refused": failed, **self._about()}

    def time(self, what, seconds):
        return {"times": times(getattr(self.contender, what), seconds)}

    def memory(self, what, reference):
        if not hasattr(self.contender, what):
            return {"peak_bytes": None}
        # What a process needs once (lazy imports, threads, compiled kernels), for a problem of almost no memory.
        tiny = Problem.of((1, 2, 3, 4), self.problem.dtype)
        getattr(self.module.Contender(tiny, tiny.arrays(), self.option), what)()
        peak, how, result = memory.of(getattr(self.contender, what))
        check(self.problem, self.contender, what, result, dict(np.load(reference)))
        return {"peak_bytes": peak, "peak_by": how, **self._about()}

    def _about(self):
        return {
            "details": getattr(self.contender, "details", {}),
            "rounding": getattr(self.contender, "rounding", None),
            "versions": machine.versions(self.module.packages),
            "pools": machine.thread_pools(),
        }


def one_line(error):
    """An exception in one line."""
    if isinstance(error, (rivals.Refused, WrongNumbers)):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"{error.name.partition('.')[0]} is not installed"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def main(name):
    # Ctrl-C is for the parent, which ends this process; what a library prints must not get between the answers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    server = Server(name)
    actions = {"load": server.load, "open": server.open, "time": server.time, "memory": server.memory}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = actions[request.pop("do")](**request)
        except Exception as error:
            answer = {"failed": one_line(error)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
