"""Keras 3 with its JAX backend: keras.layers.LSTM and LSTMCell, called as JAX functions (`stateless_call`) under jit.

JAX and not PyTorch, because on the CPU it is the faster of the two backends (at N, T, D, H = 1, 1000, 32, 32 some
thirty times, where the other calls Python for each step). Gradients come from jax.vjp.
"""

import os

# Keras reads it when it is imported; this process is its contender's alone.
os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np

packages = ("keras", "jax", "jaxlib")


def swap(array):
    """Gate blocks of the last axis: i, f, o, g (ours) to i, f, g, o (Keras's), or back."""
    i, f, third, fourth = np.split(array, 4, axis=-1)
    return np.concatenate([i, f, fourth, third], axis=-1)


class Contender:
    def __init__(self, problem, arrays, option):
        if problem.dtype == "float64":
            jax.config.update("jax_enable_x64", True)
        cpu = jax.devices("cpu")[0]
        x, h0, c0, dh = (jax.device_put(arrays[name], cpu) for name in ("x", "h0", "c0", "dh"))
        layer = keras.layers.LSTM(problem.H, return_sequences=True, return_state=True, dtype=problem.dtype)
        layer.build(x.shape)
        weights = [jax.device_put(swap(arrays[name]), cpu) for name in ("Wx", "Wh", "b")]
        others = [variable.value for variable in layer.non_trainable_variables]
        cell = layer.cell
        cell_others = [variable.value for variable in cell.non_trainable_variables]

        def sequence(weights, x, h0, c0):
            return tuple(layer.stateless_call(weights, others, x, initial_state=[h0, c0])[0])

        def gradients(dh, *arguments):
            outputs, backward = jax.vjp(sequence, *arguments)
            return *outputs, backward((dh, jax.numpy.zeros_like(outputs[1]), jax.numpy.zeros_like(outputs[2])))

        self.arguments, self.dh = (weights, x, h0, c0), dh
        self.steps = [jax.device_put(step, cpu) for step in np.moveaxis(arrays["x"], 1, 0)]
        self.infer = jax.jit(sequence)
        # What backward needs comes back as an array each: that is the forward pass of a training step.
        self.keep = jax.jit(lambda *arguments: jax.vjp(sequence, *arguments))
        self.learn = jax.jit(gradients)
        self.advance = jax.jit(lambda weights, x, h, c: cell.stateless_call(weights, cell_others, x, [h, c])[0])
        self.details = {"backend": keras.backend.backend()}

    def inference(self):
        return jax.block_until_ready(self.infer(*self.arguments))

    def forward(self):
        return jax.block_until_ready(self.keep(*self.arguments))[0]

    def training(self):
        return jax.block_until_ready(self.learn(self.dh, *self.arguments))

    def step(self):
        weights, _, h, c = self.arguments
        outputs = []
        for x in self.steps:
            # Whoever streams looks at each output before the next input comes.
            _, (h, c) = jax.block_until_ready(self.advance(weights, x, h, c))
            outputs.append(h)
        return outputs, h, c

    def named(self, what, result):
        h, h_n, c_n, *gradients = result
        arrays = {"h": np.stack(h, axis=1) if what == "step" else h, "h_n": h_n, "c_n": c_n}
        if gradients:
            (dWx, dWh, db), dx, dh0, dc0 = gradients[0]
            arrays |= {"dx": dx, "dh0": dh0, "dc0": dc0}
            arrays |= {"dWx": swap(dWx), "dWh": swap(dWh), "db": swap(db)}
        return {name: np.asarray(array) for name, array in arrays.items()}
