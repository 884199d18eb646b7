"""ONNX Runtime on the CPU: a model of one LSTM node, with the session's default options; inference only.

The default is a thread per physical core, which spins for a while for more work: at five sizes from 1, 1000, 32, 32
to 64, 128, 256, 512 it was as fast as that number given by hand, and faster than threads that do not spin. For single
steps one thread made no difference up to H = 256, and `run` on NumPy arrays was two to four times as fast as
`run_with_ort_values`. The arrays are in the layout that the node wants, time before batch: no transposition is timed.
The node has no float64.
"""

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from . import Refused

packages = ("onnxruntime", "onnx")


def swap(array):
    """Gate blocks i, f, o, g (ours) of the last axis to i, o, f, c (ONNX's)."""
    i, f, o, g = np.split(array, 4, axis=-1)
    return np.concatenate([i, o, f, g], axis=-1)


def model(Wx, Wh, b):
    """The serialised model: X (T, N, D), initial_h and initial_c (1, N, H) -> Y (T, 1, N, H), Y_h, Y_c (1, N, H)."""
    D, H = Wx.shape[0], Wh.shape[0]
    weights = {"W": swap(Wx).T[None], "R": swap(Wh).T[None], "B": np.concatenate([swap(b), 0 * b])[None]}
    inputs = {"X": ["T", "N", D], "initial_h": [1, "N", H], "initial_c": [1, "N", H]}
    outputs = {"Y": ["T", 1, "N", H], "Y_h": [1, "N", H], "Y_c": [1, "N", H]}
    node = helper.make_node("LSTM", ["X", *weights, "", "initial_h", "initial_c"], list(outputs), hidden_size=H)
    graph = helper.make_graph(
        [node],
        "lstm",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in weights.items()],
    )
    # Versions that every ONNX Runtime of the last years reads.
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8).SerializeToString()


class Contender:
    def __init__(self, problem, arrays, option):
        if problem.dtype != "float32":
            raise Refused("ONNX Runtime's LSTM computes float32 only")
        serialised = model(*(arrays[name] for name in ("Wx", "Wh", "b")))
        self.session = onnxruntime.InferenceSession(serialised, providers=["CPUExecutionProvider"])
        self.details = {"threads": "by default"}
        self.x = np.ascontiguousarray(np.moveaxis(arrays["x"], 1, 0))
        self.states = [arrays[name][None] for name in ("h0", "c0")]

    def _run(self, x, h, c):
        return self.session.run(None, {"X": x, "initial_h": h, "initial_c": c})

    def inference(self):
        return self._run(self.x, *self.states)

    def step(self):
        h, c = self.states
        outputs = []
        for t in range(len(self.x)):
            y, h, c = self._run(self.x[t : t + 1], h, c)
            outputs.append(y)
        return np.concatenate(outputs), h, c

    def named(self, what, result):
        y, h, c = result
        return {"h": np.moveaxis(y[:, 0], 0, 1), "h_n": h[0], "c_n": c[0]}
