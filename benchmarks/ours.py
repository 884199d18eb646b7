"""The contender lstm_xp, with the engine that it chooses by itself or a named one (lstm_xp:ENGINE).

As lstm_xp:frozen, its weights are constants, as those of an ONNX Runtime session are: prepared once,
at a call that does not count.

On NumPy arrays; for `--device cuda` on CuPy arrays, where each call ends when the device has done its work.
"""

import numpy as np

from lstm_xp import LSTM, Direction, State, explain, freeze, lstm_backward, lstm_forward
from lstm_xp.libraries import to_numpy

packages = ("lstm_xp", "array_api_compat", "numba", "cupy")
FROZEN = "frozen"


def refuses(device, option):
    """Why it cannot run here; "" if it can."""
    if device == "cpu":
        return ""
    import cupy

    return "" if cupy.is_available() else "cupy finds no GPU"


class Contender:
    def __init__(self, problem, arrays, option):
        self.wait, self.device = (lambda: None), problem.device
        if self.device == "cuda":
            import cupy

            # Every stream of the device: whatever ran, it has ended when this returns.
            self.wait = cupy.cuda.Device().synchronize
            arrays = {name: cupy.asarray(array) for name, array in arrays.items()}
        self.x, self.h0, self.c0, self.dh = (arrays[name] for name in ("x", "h0", "c0", "dh"))
        self.weights = [arrays[name] for name in ("Wx", "Wh", "b")]
        # A stream hands over its steps one by one, each in memory of its own.
        self.steps = [self.x[:, t].copy() for t in range(problem.T)]
        self.engine = "auto" if option in ("", FROZEN) else option
        if option == FROZEN:
            self.weights = freeze(self.weights)
        self.network, self.params = LSTM(problem.D, problem.H, engine=self.engine), (Direction(*self.weights),)
        self.wait()

    @property
    def details(self):
        """Engine, threads, GPU."""
        engine = explain(self.x, self.h0, *self.weights, c0=self.c0, engine=self.engine).partition(":")[0]
        found = {"engine": engine}
        if engine == "numpy_numba":
            from lstm_xp.engines.compiled import threads

            found["threads"] = threads.limit()
        if self.device == "cuda":
            import cupy

            found["gpu"] = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
        return found

    def inference(self):
        h, cache = lstm_forward(self.x, self.h0, *self.weights, c0=self.c0, training=False, engine=self.engine)
        self.wait()
        return h, cache

    def forward(self):
        h, cache = lstm_forward(self.x, self.h0, *self.weights, c0=self.c0, engine=self.engine)
        self.wait()
        return h, cache

    def training(self):
        h, cache = lstm_forward(self.x, self.h0, *self.weights, c0=self.c0, engine=self.engine)
        gradients = lstm_backward(self.dh, cache)
        self.wait()
        return h, cache, gradients

    def step(self):
        state, outputs = State(self.h0[None, ...], self.c0[None, ...]), []
        for x in self.steps:
            h, state = self.network.step(self.params, x, state)
            # Whoever streams looks at each output before the next input comes.
            self.wait()
            outputs.append(h)
        return outputs, state

    def named(self, what, result):
        if what == "step":
            outputs, state = result
            h_n, c_n = (to_numpy(v)[0] for v in state)
            return {"h": np.stack([to_numpy(h) for h in outputs], axis=1), "h_n": h_n, "c_n": c_n}
        h, cache, *gradients = result
        arrays = {"h": h, "h_n": cache.h_n, "c_n": cache.c_n}
        if gradients:
            arrays |= gradients[0]._asdict() | {"dc0": gradients[0].dc0}
        return {name: to_numpy(array) for name, array in arrays.items()}
