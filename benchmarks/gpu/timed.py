"""Times: of torch.nn.LSTM alone over the whole grid (the part `rivals`), and of the engines beside it (`engines`).

Whatever is timed is compared with a float64 reference first. An engine that is wrong gets no time. torch.nn.LSTM does,
with its error on record: it rounds where cuDNN likes to, and its time is what has to be known.
"""

import math
from functools import lru_cache
from itertools import product

from lstm_xp import engines as table

from ..problems import Problem
from ..reference import WrongNumbers
from ..runner import statistics
from ..worker import one_line
from . import comparing, correctness, sizes
from .contenders import RECORDED, Engine
from .timing import in_rounds

WHATS = ("inference", "training")
MODES = ("eager", "graph")
ROUNDS, SECONDS = 3, 0.008
# Engines that are also timed as calls that were recorded, as torch's are in a CUDA graph, from N times H on: the quick
# ones, and one that is quick where steps are long.
ALSO_RECORDED = {"cupy_rows": 0, "cupy_cluster": 0, "cupy_grid": 0, "cupy_step": 0, "cupy_fused": 2**15}


class Part:
    """Times of some contenders, shape by shape."""

    def __init__(self, engines):
        self.engines = engines

    def units(self, place):
        """One per shape and kind; float64, which is for proofs, at some shapes."""
        shapes = sizes.REHEARSED["timed"] if place.rehearsal else sizes.grid()
        some = shapes[:1] if place.rehearsal else sizes.REFERENCE_TIMED
        pairs = [(size, "float64") for size in some] + [(size, kind) for size in shapes for kind in sizes.TIMED_KINDS]
        return [{"size": list(size), "kind": kind} for size, kind in pairs]

    def run(self, unit, place):
        """A record per contender and kind of work."""
        race = Race(tuple(unit["size"]), unit["kind"], place)
        for name in race.engines() if self.engines else ():
            race.add_engine(name)
        race.add_torch((unit["mode"],) if "mode" in unit else MODES)
        return race.records()

    def smaller(self, unit):
        """What to try instead, where a piece of work took the device with it: no CUDA graph of torch's. Or None."""
        return None if "mode" in unit else {**unit, "mode": "eager"}


RIVALS, ENGINES = Part(engines=False), Part(engines=True)


class Race:
    """Contenders at one shape, in one kind of numbers."""

    def __init__(self, size, kind, place):
        self.size, self.kind, self.place = size, kind, place
        self.problem, self.arrays = _drawn(size, place)
        self.calls, self.shares, self.failures, self.wrong = {}, {}, {}, {}
        self.torch = {}
        try:
            self.expected, self.why_not = _reference(size, sizes.KINDS[kind].dtype, place), ""
        except Exception as error:
            self._unless_broken(error)
            self.expected, self.why_not = None, one_line(error)

    def engines(self):
        """The engines that are timed here."""
        names = table.candidates(self.place.array_library)
        if self.kind != sizes.REFERENCE_KIND or not (self.place.rehearsal or self.size in sizes.REFERENCE_TIMED):
            names = [name for name in names if name != "array_api"]
        return [name for name in names if not correctness.refusal(name, self.kind, self.size, self.place)]

    def add_engine(self, name):
        def check(what, result):
            if self.expected is None:
                raise RuntimeError(f"there is no reference: {self.why_not}")
            given = engine.arrays if what == "training" else engine.plain
            return comparing.check(result, given, self.expected, self._rounding, self.problem.T, self.place.xp)

        try:
            engine = Engine(name, _given(self.size, sizes.KINDS[self.kind].dtype, self.place), self.kind)
        except Exception as error:
            self._unless_broken(error)
            self.failures |= {(name, what): one_line(error) for what in WHATS}
            return
        N, _, _, H = self.size
        modes = ("eager", "recorded") if N * H >= ALSO_RECORDED.get(name, math.inf) else ("eager",)
        for mode, what in product(modes, WHATS):
            contender = name if mode == "eager" else name + RECORDED
            self._add(contender, what, lambda mode=mode, what=what: engine.work(what, mode), check)

    def add_torch(self, modes):
        def check(what, result):
            if self.expected is None:
                return {"": None}
            found = contender.named(result)
            return comparing.shares(found, self.expected, self._rounding, self.problem.T, self.place.xp)

        def prepare(mode, what):
            if mode == "graph" and self.place.rehearsal:
                raise RuntimeError("a CUDA graph needs a GPU")
            return contender.work(what, mode)

        try:
            from .torch_lstm import Torch

            contender = Torch(self.problem, self.arrays, self.kind, self.place)
        except Exception as error:
            self._unless_broken(error)
            self.failures |= {(f"torch {mode}", what): one_line(error) for mode in modes for what in WHATS}
            return
        self.torch = {"cudnn": contender.by_cudnn}
        for mode in modes:
            for what in WHATS:
                self._add(f"torch {mode}", what, lambda mode=mode, what=what: prepare(mode, what), check)

    def records(self):
        """Time everybody, inference and training in rounds of their own."""
        found = []
        for what in WHATS:
            chosen = {key: call for key, call in self.calls.items() if key[1] == what}
            taken, failures = in_rounds(chosen, self.place, ROUNDS, SECONDS)
            self.failures |= failures
            for key, times in taken.items():
                record = statistics(times)
                median = record["median_s"]
                record |= {"us_per_step": median / self.problem.T * 1e6}
                record |= {"tflops": self.problem.flop(what) / median / 1e12, "share_of_limit": self.shares[key]}
                record |= self.torch if key[0].startswith("torch") else {}
                found.append({"contender": key[0], "what": what, **record})
        for (name, what), reason in self.failures.items():
            wrong = {"wrong": reason} if (name, what) in self.wrong else {}
            found.append({"contender": name, "what": what, "failed": reason, **wrong})
        return found

    @property
    def _rounding(self):
        return sizes.KINDS[self.kind].rounding

    def _add(self, name, what, prepare, check):
        try:
            call = prepare()
            self.shares[name, what] = max(check(what, call()).values())
            self.calls[name, what] = call
        except WrongNumbers as wrong:
            self.failures[name, what] = self.wrong[name, what] = str(wrong)
        except Exception as error:
            self._unless_broken(error)
            self.failures[name, what] = one_line(error)

    def _unless_broken(self, error):
        """An error of the device itself ends the piece of work, and its process."""
        if self.place.broken(error):
            raise error


@lru_cache(maxsize=1)
def _drawn(size, place):
    """The problem of the benchmarks at this size, and its arrays. What the last one took there is free again."""
    place.release()
    problem = Problem.of(size, "float32")
    return problem, problem.arrays()


@lru_cache(maxsize=1)
def _given(size, dtype, place):
    """The arrays on the device: kinds of one dtype, and all engines, share them, for none writes into them."""
    return {name: place.array(value, dtype) for name, value in _drawn(size, place)[1].items()}


@lru_cache(maxsize=1)
def _reference(size, dtype, place):
    """Outputs and gradients in float64, of the arrays as this dtype rounds them, by an engine that is quick at it."""
    return comparing.reference(_given(size, dtype, place), place.quick)
