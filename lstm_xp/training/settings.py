"""The settings of a run."""

from dataclasses import asdict, dataclass

DEVICES, DTYPES, OPTIMIZER_NAMES = ("auto", "cpu", "cuda"), ("float32", "float64"), ("adam", "sgd")
DEFAULT_STEPS = 2000


@dataclass(frozen=True)
class Settings:
    """All that the numbers of a run depend on, beside its texts. The command line's flags have the same names.

    Exactly one of `steps` and `minutes` is set: the length of the run.
    """

    hidden: int = 256
    layers: int = 1
    embedding: int = 32
    batch: int = 32
    length: int = 24
    optimizer: str = "adam"
    lr: float | None = None
    clip: float = 1.0
    seed: int = 0
    dtype: str = "float32"
    device: str = "auto"
    threads: int = 1
    steps: int | None = None
    minutes: float | None = None

    def model_shape(self):
        """The arguments of `model.parameter_shapes`."""
        return {"hidden": self.hidden, "layers": self.layers, "embedding": self.embedding}

    def done(self, steps, seconds):
        """The share of the run that lies behind, after so many steps in so many seconds."""
        return steps / self.steps if self.steps else seconds / (60 * self.minutes)

    def as_dict(self):
        """For JSON."""
        return asdict(self)
