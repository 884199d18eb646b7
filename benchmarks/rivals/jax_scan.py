"""JAX on the CPU: jit over a scan, the input product of all steps before it; gradients by jax.vjp."""

import jax
import jax.numpy as jnp
import numpy as np

packages = ("jax", "jaxlib")


def cell(state, a, Wh):
    """One step from pre-activations, gate order i, f, o, g."""
    h, c = state
    i, f, o, g = jnp.split(a + h @ Wh, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def sequence(x, h0, c0, Wx, Wh, b):
    """h (N, T, H), and the final h and c."""

    def body(state, a):
        state = cell(state, a, Wh)
        return state, state[0]

    a = jnp.swapaxes(x, 0, 1) @ Wx + b
    state, h = jax.lax.scan(body, (h0, c0), a)
    return jnp.swapaxes(h, 0, 1), *state


@jax.jit
def gradients(dh, *arguments):
    """The outputs, and the gradients of all arguments."""
    outputs, backward = jax.vjp(sequence, *arguments)
    return *outputs, *backward((dh, jnp.zeros_like(outputs[1]), jnp.zeros_like(outputs[2])))


infer = jax.jit(sequence)
# What backward needs comes back as an array each: that is the forward pass of a training step.
keep = jax.jit(lambda *arguments: jax.vjp(sequence, *arguments))
advance = jax.jit(lambda x, h, c, Wx, Wh, b: cell((h, c), x @ Wx + b, Wh))


class Contender:
    def __init__(self, problem, arrays, option):
        if problem.dtype == "float64":
            jax.config.update("jax_enable_x64", True)
        cpu = jax.devices("cpu")[0]
        self.arguments = [jax.device_put(arrays[name], cpu) for name in ("x", "h0", "c0", "Wx", "Wh", "b")]
        self.dh = jax.device_put(arrays["dh"], cpu)
        self.steps = [jax.device_put(x, cpu) for x in np.moveaxis(arrays["x"], 1, 0)]

    def inference(self):
        return jax.block_until_ready(infer(*self.arguments))

    def forward(self):
        return jax.block_until_ready(keep(*self.arguments))[0]

    def training(self):
        return jax.block_until_ready(gradients(self.dh, *self.arguments))

    def step(self):
        _, h, c, *weights = self.arguments
        outputs = []
        for x in self.steps:
            # Whoever streams looks at each output before the next input comes.
            h, c = jax.block_until_ready(advance(x, h, c, *weights))
            outputs.append(h)
        return outputs, h, c

    def named(self, what, result):
        h, h_n, c_n, *gradients = result
        h = np.stack(h, axis=1) if what == "step" else h
        arrays = dict(zip(("dx", "dh0", "dc0", "dWx", "dWh", "db"), gradients, strict=False))
        return {name: np.asarray(v) for name, v in (arrays | {"h": h, "h_n": h_n, "c_n": c_n}).items()}
