"""JAX: the step functions under jit, and its own gradients of them and of the sequence."""

import numpy as np
import pytest
from problems import ORDERS, backward, forward, given, random_problem

from lstm_xp import lstm_forward, lstm_step_backward, lstm_step_forward
from lstm_xp.libraries import to_numpy
from lstm_xp.testing import assert_close

STEP = ("x", "h0", "c0", "Wx", "Wh", "b")


@pytest.fixture
def jax_lib(library):
    return library("jax")


@pytest.fixture
def step(jax_lib):
    """The arguments of a step, and its cotangents."""
    values = random_problem()
    values["x"] = values["x"][:, 0]
    arrays = given(jax_lib, values)
    return [arrays[name] for name in STEP], (arrays["dh_n"], arrays["dc_n"])


def test_step_forward_under_jit(jax_lib, step):
    import jax

    arguments, _ = step
    compiled = jax.jit(lstm_step_forward)(*arguments)
    plain = lstm_step_forward(*arguments)
    for result, expected in zip(compiled[:2], plain[:2], strict=True):
        assert_close(result, expected)
    assert type(compiled[2]) is type(plain[2])
    assert_close(compiled[2].f, plain[2].f)


def test_step_backward_under_jit(jax_lib, step):
    import jax

    arguments, cotangents = step
    _, _, cache = lstm_step_forward(*arguments)
    compiled = jax.jit(lstm_step_backward)(*cotangents, cache)
    for result, expected in zip(compiled, lstm_step_backward(*cotangents, cache), strict=True):
        assert_close(result, expected, kind="gradient")


def test_both_steps_in_one_jit(jax_lib, step):
    import jax

    def whole(arguments, cotangents):
        _, _, cache = lstm_step_forward(*arguments)
        return lstm_step_backward(*cotangents, cache)

    for result, expected in zip(jax.jit(whole)(*step), whole(*step), strict=True):
        assert_close(result, expected, kind="gradient")


def test_step_errors_are_raised_under_jit(jax_lib, step):
    import jax

    arguments, _ = step
    with pytest.raises(ValueError, match="b must have shape"):
        jax.jit(lstm_step_forward)(*arguments[:5], arguments[5][:-1])


def test_jax_grad_of_a_step(jax_lib, step):
    """jax.grad of the forward function is what the backward function returns."""
    import jax

    arguments, (dh, dc) = step

    def loss(*arguments):
        h, c, _ = lstm_step_forward(*arguments)
        return jax_lib.xp.sum(h * dh) + jax_lib.xp.sum(c * dc)

    found = jax.jit(jax.grad(loss, argnums=tuple(range(6))))(*arguments)
    _, _, cache = lstm_step_forward(*arguments)
    for gradient, ours in zip(found, lstm_step_backward(dh, dc, cache), strict=True):
        assert_close(gradient, ours, kind="gradient")


def test_jax_grad_of_a_sequence(jax_lib):
    import jax

    names, order = ("x", "h0", "Wx", "Wh", "b", "c0"), ORDERS["reverse, lengths"]
    arrays = given(jax_lib, random_problem())

    def loss(*arguments):
        h, cache = forward(dict(zip(names, arguments, strict=True)), **order)
        results = {"dh": h, "dh_n": cache.h_n, "dc_n": cache.c_n}
        return sum(jax_lib.xp.sum(arrays[name] * result) for name, result in results.items())

    found = jax.grad(loss, argnums=tuple(range(6)))(*(arrays[name] for name in names))
    _, cache = forward(arrays, **order)
    ours = backward(arrays, cache)
    for name, gradient in zip(names, found, strict=True):
        assert_close(gradient, ours[f"d{name}"], kind="gradient", steps=5, name=f"d{name}")


def test_scan_over_the_step(jax_lib):
    """The step function inside jax.lax.scan is the sequence."""
    import jax

    arrays = given(jax_lib, random_problem())
    h, cache = lstm_forward(*(arrays[name] for name in ("x", "h0", "Wx", "Wh", "b")), c0=arrays["c0"])

    def body(state, x):
        h, c, _ = lstm_step_forward(x, *state, arrays["Wx"], arrays["Wh"], arrays["b"])
        return (h, c), h

    (h_n, c_n), all_h = jax.lax.scan(body, (arrays["h0"], arrays["c0"]), arrays["x"].swapaxes(0, 1))
    assert_close(all_h.swapaxes(0, 1), h, steps=5)
    assert_close(h_n, cache.h_n, steps=5)
    assert_close(c_n, cache.c_n, steps=5)


def test_without_64_bits(jax_lib):
    """JAX as it comes has no float64; the rest works, without a warning."""
    import jax

    values = random_problem()
    with jax.enable_x64(False):
        assert jax_lib.dtypes() == ("float32", "float16", "bfloat16")
        arrays = given(jax_lib, values, "float32")
        h, cache = forward(arrays, **ORDERS["reverse, lengths"])
        gradients = backward(arrays, cache)
        assert all(np.all(np.isfinite(to_numpy(array))) for array in (h, cache.h_n, *gradients.values()))
        assert str(gradients["dWx"].dtype) == "float32"
