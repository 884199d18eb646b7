"""The records of one run, by contender, work and size, and how the contenders compare."""

from math import exp, log
from typing import NamedTuple

from .problems import GROWTH, REMEMBERED, SIZES, WHATS

# How memory is called among the kinds of work.
MEMORY = tuple(f"memory {what}" for what in REMEMBERED)

# The rivals on the CPU whose best a claim of speed is held to: those that one would take for this work instead.
JUDGES = {
    "inference": ("onnxruntime", "torch_cpu", "jax_scan"),
    "forward": ("torch_cpu", "jax_scan"),
    "training": ("torch_cpu", "jax_scan"),
    "step": ("torch_cpu", "onnxruntime"),
} | dict.fromkeys(MEMORY, ("torch_cpu",))


class Best(NamedTuple):
    """The smallest ratio at a size, and whose it is."""

    ratio: float
    rival: str


class Comparison:
    """One run. Ratios are a contender's time, or memory, over that of the `base`: above 1 the base is better.

    The base is the run's first contender, if no other is named.
    """

    def __init__(self, records, base=None):
        self.records = records
        self.contenders = list(dict.fromkeys(record["contender"] for record in records))
        self.base = base or self.contenders[0]
        self.others = [name for name in self.contenders if name != self.base]
        self._found = {(record["contender"], work_of(record), size_of(record)): record for record in records}
        # Another engine of the base is no rival, nor is who rounds more coarsely than the problem's dtype.
        self.family = [name for name in self.contenders if name.partition(":")[0] == self.base.partition(":")[0]]
        coarse = {record["contender"] for record in records if record.get("rounding")}
        self.rivals = [name for name in self.contenders if name not in self.family and name not in coarse]

    def get(self, contender, what, size):
        """The record, or None."""
        return self._found.get((contender, what, size))

    def whats(self):
        """The kinds of work that were timed, in the order of the table."""
        return [what for what in WHATS if any(record["what"] == what for record in self.records)]

    def sizes(self, what):
        """The sizes at which somebody did this, in the order of the records."""
        return list(dict.fromkeys(size_of(record) for record in self.records if work_of(record) == what))

    def standard(self, what):
        """Those of them that are not there to show growth alone."""
        growing = {size for axis in self.axes() for size in GROWTH[axis]} - set(SIZES.values())
        return [size for size in self.sizes(what) if size not in growing]

    def axes(self):
        """The doublings that are complete."""
        return [axis for axis in GROWTH if any(set(GROWTH[axis]) <= set(self.sizes(what)) for what in self.whats())]

    def ratio(self, name, what, size):
        """A contender's time or memory over the base's; None where one of the two is missing."""
        theirs, ours = (value(self.get(contender, what, size)) for contender in (name, self.base))
        return None if theirs is None or ours is None else theirs / ours

    def taking_part(self, what, names):
        """Those of the rivals named that have a measurement of this work."""
        able = {record["contender"] for record in self.records if work_of(record) == what and usable(record)}
        return tuple(name for name in names if name in self.rivals and name in able)

    def judges(self, what):
        """Whom the best rival is the best of: those of the table that were measured, or else everybody."""
        return self.taking_part(what, JUDGES[what]) or self.taking_part(what, self.rivals)

    def best(self, what, size, among=None):
        """The `Best` of the judges, or of the rivals named; None where there is none."""
        names = self.judges(what) if among is None else among
        ratios = [Best(ratio, name) for name in names if (ratio := self.ratio(name, what, size)) is not None]
        return min(ratios, default=None)


def work_of(record):
    """The kind of work of a record."""
    return f"{record['what']} {record['of']}" if "of" in record else record["what"]


def size_of(record):
    """(N, T, D, H)"""
    return record["N"], record["T"], record["D"], record["H"]


def usable(record):
    """Whether there is a measurement."""
    return record is not None and not record["failed"]


def value(record):
    """What counts: the median time, or the peak memory; None if there is none."""
    return record.get("median_s", record.get("peak_bytes")) if usable(record) else None


def mean(ratios):
    """The geometric mean of the ratios that there are; None without any."""
    logs = [log(ratio) for ratio in ratios if ratio is not None]
    return exp(sum(logs) / len(logs)) if logs else None
