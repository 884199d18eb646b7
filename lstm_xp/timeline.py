"""Lengths and direction: the order in which the steps of a padded batch are taken.

The recurrence always runs forwards over arrays (T, N, K) whose valid steps come first. This file turns the caller's
(N, T, K) into that and back: time first, each row's valid part reversed if asked for, zeros behind the lengths.
"""

from typing import NamedTuple

from . import checks
from .checks import Array


class Timeline(NamedTuple):
    """The order of the steps of one batch; `lengths` is None where every row has T steps."""

    N: int
    T: int
    lengths: Array | None
    reverse: bool
    xp: object
    device: object

    @classmethod
    def of(cls, v, lengths, reverse, xp):
        """The timeline of an array (N, T, K)."""
        return cls(v.shape[0], v.shape[1], lengths, reverse, xp, checks.device(v))

    def steps(self, v, start=0, stop=None):
        """Steps start..stop of v (N, T, K) in the order of processing: (stop - start, N, K), padding zeroed."""
        xp, stop = self.xp, self.T if stop is None else stop
        if self.reverse and self.lengths is not None:
            place = self._place(start, stop)
            if stop - start == self.T:
                v = self._take(xp.reshape(v, (self.N * self.T, v.shape[2])), self._row() * self.T + place)
            else:  # only libraries that index like NumPy ask for some of the steps: nothing else of v is copied
                v = v[self._row()[None, :], place, :]
        else:
            v = xp.permute_dims(v, (1, 0, 2))
            if stop - start < self.T:
                v = v[self.T - stop : self.T - start, ...] if self.reverse else v[start:stop, ...]
            v = xp.flip(v, axis=0) if self.reverse else v
        return self.zero_padding(v, start)

    def restore(self, v):
        """The inverse of `steps` over all steps: (T, N, K) -> (N, T, K), zeros behind the lengths."""
        v = self.zero_padding(v)
        if self.reverse and self.lengths is not None:
            v = self._take(rows_of(v, self.xp), self._place(0, self.T) * self.N + self._row())
        elif self.reverse:
            v = self.xp.flip(v, axis=0)
        return self.xp.permute_dims(v, (1, 0, 2))

    def restored(self, steps):
        """The same of several arrays at once, given step by step: T tuples of (N, K), in the order of processing."""
        return tuple(self.restore(self.xp.stack(parts)) for parts in zip(*steps, strict=True))

    def put(self, v, out, start):
        """Write v, the steps from `start` on, to where they stand in out (T, N, K), which is in the caller's order."""
        stop = start + v.shape[0]
        v = self.zero_padding(v, start)
        if not self.reverse:
            out[start:stop, ...] = v
        elif self.lengths is None:
            out[self.T - stop : self.T - start, ...] = self.xp.flip(v, axis=0)
        else:
            rows = self.xp.reshape(self._place(start, stop) * self.N + self._row(), (-1,))
            rows_of(out, self.xp)[rows, ...] = rows_of(v, self.xp)

    def valid(self, steps, start=0):
        """Which of so many steps lie before the lengths: (steps, N, 1)."""
        return self._time(start, start + steps)[:, :, None] < self.lengths[None, :, None]

    def zero_padding(self, v, start=0):
        """v (steps, N, K) with zeros behind the lengths, whatever stood there."""
        if self.lengths is None:
            return v
        return where(self.valid(v.shape[0], start), v, self.xp.zeros_like(v), self.xp)

    def is_last(self, steps, start=0):
        """Which of so many steps is the last valid one of its row: (steps, N, 1)."""
        return self._time(start, start + steps)[:, :, None] == self.lengths[None, :, None] - 1

    def last(self, v, before, start=0):
        """v (steps, N, K) at each row's last valid step; `before` (N, K) where that is not among these steps."""
        xp = self.xp
        if self.lengths is None:
            return v[-1, ...]
        steps = v.shape[0]
        place = self.lengths - 1 - start
        inside = (place >= 0) & (place < steps)
        rows = xp.where(inside, place, xp.zeros_like(place)) * self.N + self._row()
        return where(inside[:, None], xp.take(rows_of(v, xp), rows, axis=0), before, xp)

    def where_empty(self, empty, otherwise):
        """Choose by row (N, K): `empty` for rows of length 0, else `otherwise`."""
        if self.lengths is None:
            return otherwise
        return where((self.lengths == 0)[:, None], empty, otherwise, self.xp)

    def _place(self, start, stop):
        """Where the steps start..stop of a row's reversed valid part stand in the caller's time: (steps, N)."""
        time = self._time(start, stop)
        return self.xp.where(time < self.lengths[None, :], self.lengths[None, :] - 1 - time, time)

    def _time(self, start, stop):
        return self.xp.arange(start, stop, device=self.device)[:, None]

    def _row(self):
        return self.xp.arange(self.N, device=self.device)

    def _take(self, flat, rows):
        xp = self.xp
        taken = xp.take(flat, xp.reshape(rows, (-1,)), axis=0)
        return xp.reshape(taken, (*rows.shape, flat.shape[1]))


def rows_of(v, xp):
    """(T, N, K) as the rows of one matrix (T*N, K)."""
    return xp.reshape(v, (v.shape[0] * v.shape[1], v.shape[2]))


def where(condition, v, otherwise, xp):
    """`xp.where` of two arrays of one dtype, in that dtype: of bfloat16, CuPy makes float32."""
    return xp.astype(xp.where(condition, v, otherwise), v.dtype, copy=False)
