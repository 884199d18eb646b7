"""What functions on sequences return beside arrays: the cache of a forward pass, the gradients of a backward one."""

import math
from collections import namedtuple
from typing import Any, NamedTuple

from . import checks
from .cell import split
from .checks import Array
from .timeline import Timeline


class SequenceCache(NamedTuple):
    """What `lstm_backward` needs, and the final state. Shapes as in `lstm_forward`.

    The arrays x, h0, c0, Wx, Wh and h are the caller's own (h: the returned one): do not modify them before the
    backward pass. `gates` (N, T, 4H) and `c` (N, T, H) are in the order of processing (for ``reverse=True``, last step
    first); the properties i, f, o, g give each gate in the caller's order of time.
    """

    x: Array | None
    h0: Array | None
    c0: Array | None
    Wx: Array | None
    Wh: Array | None
    h: Array | None
    c: Array | None
    gates: Array | None
    h_n: Array
    c_n: Array
    lengths: Array | None
    reverse: bool
    precision: str
    engine: Any

    @property
    def i(self):
        """Input gate (N, T, H), zeros behind the lengths."""
        return self._gate(0)

    @property
    def f(self):
        """Forget gate (N, T, H), zeros behind the lengths."""
        return self._gate(1)

    @property
    def o(self):
        """Output gate (N, T, H), zeros behind the lengths."""
        return self._gate(2)

    @property
    def g(self):
        """Candidate (N, T, H), zeros behind the lengths."""
        return self._gate(3)

    @property
    def nbytes(self):
        """Bytes held beside the caller's arrays and the returned h: gates, c and the final state."""
        held = [array for array in (self.gates, self.c, self.h_n, self.c_n) if array is not None]
        return sum(math.prod(array.shape) * checks.itemsize(array.dtype) for array in held)

    def _gate(self, block):
        if self.gates is None:
            raise ValueError("the gates were not kept: call lstm_forward with training=True.")
        xp = checks.namespace(self.gates)
        gate = split(xp.permute_dims(self.gates, (1, 0, 2)))[block]
        return Timeline.of(self.gates, self.lengths, self.reverse, xp).restore(gate)


class SequenceGradients(namedtuple("SequenceGradients", "dx dh0 dWx dWh db")):
    """The tuple (dx, dh0, dWx, dWh, db), also by these names, and the attribute dc0."""

    def __new__(cls, dx, dh0, dWx, dWh, db, dc0=None):
        self = super().__new__(cls, dx, dh0, dWx, dWh, db)
        self.dc0 = dc0
        return self


class LayerCache(NamedTuple):
    """What `LSTM.backward` needs, and the masks of the run.

    `directions` has the cache of each layer and direction in the order of the parameters: its gates are
    ``cache.directions[k].i`` (N, T, H), and f, o, g likewise. `masks` are the masks that were used: handed to `forward`
    again, on whatever device, they repeat the run.
    """

    network: Any
    params: tuple
    directions: tuple
    masks: Any
    lengths: Array | None
    x: Array | None

    @property
    def nbytes(self):
        """Bytes held beside the caller's arrays and the outputs of the layers."""
        return sum(cache.nbytes for cache in self.directions)


class LayerGradients(NamedTuple):
    """What `LSTM.backward` returns: the gradients of x, of the initial `State`, and of the parameters."""

    dx: Array | None
    dstate: Any
    dparams: tuple
