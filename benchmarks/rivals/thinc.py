"""Thinc's own LSTM (LSTM.v1, compiled for the CPU).

Its gradients are wrong in the versions that were looked at (9.1), so that `training` is refused as wrong, not timed;
those of the initial state it does not compute. It has one initial state for all rows (the parameter HC0), so that it
can be compared at N = 1 only. It has no single step for streaming, and float32 only.
"""

import numpy as np
from thinc.api import LSTM, NumpyOps
from thinc.types import Padded

from . import Refused

packages = ("thinc",)


def swap(array):
    """Gate blocks of the last axis: i, f, o, g (ours) to f, i, o, c (Thinc's), or back."""
    i, f, o, g = np.split(array, 4, axis=-1)
    return np.concatenate([f, i, o, g], axis=-1)


class Contender:
    def __init__(self, problem, arrays, option):
        if problem.dtype != "float32":
            raise Refused("Thinc's LSTM computes float32 only")
        if problem.N > 1:
            raise Refused("Thinc's LSTM has one initial state for all rows, so that only N = 1 can be compared")
        D, H = self.sizes = problem.D, problem.H
        Wx, Wh, b = (swap(arrays[name]) for name in ("Wx", "Wh", "b"))
        self.model = LSTM(H, D)
        self.model.ops = NumpyOps()
        self.model.initialize()
        self.model.set_param("LSTM", np.concatenate([Wx.T.ravel(), b, Wh.T.ravel(), 0 * b]))
        # The layer hands its two initial states over in the wrong order: c is the first one.
        self.model.set_param("HC0", np.stack([arrays["c0"], arrays["h0"]])[:, None])
        self.x, self.dh = self._padded(arrays["x"]), self._padded(arrays["dh"])

    @staticmethod
    def _padded(array):
        N, T, _ = array.shape
        data = np.ascontiguousarray(np.moveaxis(array, 1, 0))
        lengths = np.full(N, T, dtype="int32")
        return Padded(data, np.full(T, N, dtype="int32"), lengths, np.arange(N, dtype="int32"))

    def inference(self):
        return self.model.predict(self.x)

    def forward(self):
        return self.model(self.x, is_train=True)[0]

    def training(self):
        h, backward = self.model(self.x, is_train=True)
        self.model.set_grad("LSTM", np.zeros_like(self.model.get_param("LSTM")))
        return h, backward(self.dh), self.model.get_grad("LSTM")

    def named(self, what, result):
        if what != "training":
            return {"h": np.moveaxis(result.data, 0, 1)}
        h, dx, flat = result
        D, H = self.sizes
        dWx, db, dWh, _ = np.split(flat, np.cumsum([4 * H * D, 4 * H, 4 * H * H]))
        return {
            "h": np.moveaxis(h.data, 0, 1),
            "dx": np.moveaxis(dx.data, 0, 1),
            "dWx": swap(dWx.reshape(4 * H, D).T),
            "dWh": swap(dWh.reshape(4 * H, H).T),
            "db": swap(db),
        }
