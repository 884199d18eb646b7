"""Parallel streams of a text, cut into windows, for stateful truncated back-propagation through time."""

import numpy as np

from .errors import UserError


class Windows:
    """Windows of `length` steps over `batch` streams, each stream a contiguous part of the text.

    Window k continues window k - 1 in every stream, so the state is carried from one to the next. Which window belongs
    to a training step follows from the step's number alone: a run can go on from any step without further memory.

    Parameters
    ----------
    text : bytes
        At least ``batch * length + 1`` bytes. What is left over at the end of the streams is not read.
    batch, length : int
        Sizes N and T.
    xp : namespace
        Where the arrays lie.

    Attributes
    ----------
    per_epoch : int
        Number of windows until the streams begin anew.
    """

    def __init__(self, text, batch, length, xp):
        data = np.frombuffer(text, dtype=np.uint8)
        self.per_epoch = (len(data) - 1) // batch // length
        if self.per_epoch == 0:
            raise UserError(
                f"the training text has {len(data)} bytes, too few for --batch {batch} times --length {length}: "
                f"give at least {batch * length + 1} (plus what is kept for the test), or make these smaller"
            )
        steps = self.per_epoch * length
        # Time-major, so that a window is one contiguous block; the target is the byte after the input.
        starts = np.arange(batch) * ((len(data) - 1) // batch)
        streams = np.stack([data[start : start + steps + 1] for start in starts], axis=1)
        self._streams = xp.asarray(streams)
        self._length, self._xp = length, xp

    def window(self, step):
        """Inputs and targets (N, T) of a training step (from 0), int64, and whether the streams begin anew with it."""
        start = step % self.per_epoch * self._length
        block = self._xp.astype(self._streams[start : start + self._length + 1, :], self._xp.int64).T
        return block[:, :-1], block[:, 1:], start == 0
