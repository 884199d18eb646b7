"""The contender lstm_xp, with the engine that it chooses by itself or a named one (lstm_xp:ENGINE)."""

import numpy as np

from lstm_xp import lstm_backward, lstm_forward, lstm_step_forward

packages = ("lstm_xp", "array_api_compat", "numba")


class Contender:
    def __init__(self, problem, arrays, option):
        self.arguments = [arrays[name] for name in ("x", "h0", "Wx", "Wh", "b")]
        self.c0, self.dh = arrays["c0"], arrays["dh"]
        # A stream hands over its steps one by one, each in memory of its own.
        self.steps = [np.ascontiguousarray(x) for x in np.moveaxis(arrays["x"], 1, 0)]
        self.engine = option or "auto"
        self.details = {}

    def inference(self):
        return lstm_forward(*self.arguments, c0=self.c0, training=False, engine=self.engine)

    def forward(self):
        return lstm_forward(*self.arguments, c0=self.c0, engine=self.engine)

    def training(self):
        h, cache = self.forward()
        return h, cache, lstm_backward(self.dh, cache)

    def step(self):
        _, h, Wx, Wh, b = self.arguments
        c, outputs = self.c0, []
        for x in self.steps:
            h, c, _ = lstm_step_forward(x, h, c, Wx, Wh, b)
            outputs.append(h)
        return outputs, c

    def named(self, what, result):
        if what == "step":
            outputs, c = result
            return {"h": np.stack(outputs, axis=1), "h_n": outputs[-1], "c_n": c}
        h, cache, *gradients = result
        self.details["engine"] = cache.engine
        arrays = {"h": h, "h_n": cache.h_n, "c_n": cache.c_n}
        if gradients:
            arrays |= gradients[0]._asdict() | {"dc0": gradients[0].dc0}
        return arrays
