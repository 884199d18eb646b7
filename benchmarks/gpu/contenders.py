"""lstm_xp's engines by name, as they are timed: calls that do not wait for the device."""

from lstm_xp import recorded

from . import comparing
from .sizes import KINDS

# What the names of calls end with that are replayed from a CUDA graph.
RECORDED = " recorded"


class Engine:
    """lstm_xp with an engine by name, on arrays of the device."""

    def __init__(self, engine, arrays, kind):
        self.options = {"engine": engine, "precision": KINDS[kind].precision}
        self.arrays = arrays
        self.plain = {name: value for name, value in self.arrays.items() if name != "dh"}

    def inference(self):
        return comparing.run(self.plain, **self.options)

    def training(self):
        return comparing.run(self.arrays, **self.options)

    def work(self, what, mode):
        """`inference` or `training` as a function: eager, or replayed as `recorded` has it."""
        if mode == "eager":
            return getattr(self, what)
        return recorded(comparing.run, self.arrays if what == "training" else self.plain, **self.options)
