"""The two functions of one time step, against the scalar LSTM of oracle.py."""

import numpy as np
import oracle
import pytest
from problems import given, random_problem

from lstm_xp import StepCache, StepGradients, lstm_step_backward, lstm_step_forward
from lstm_xp.cell import sigmoid
from lstm_xp.testing import assert_close

ORDER = ("x", "h0", "c0", "Wx", "Wh", "b")


def step_problem(lib, **sizes):
    values = random_problem(**sizes)
    values["x"] = values["x"][:, 0]
    return values, given(lib, values)


@pytest.mark.parametrize("sizes", [{}, {"N": 1}, {"H": 1, "N": 7}, {"D": 1, "N": 7}], ids=str)
def test_step_is_the_scalar_one(lib, sizes):
    values, arrays = step_problem(lib, **sizes)
    h, c, _ = lstm_step_forward(*(arrays[name] for name in ORDER))
    rows = zip(values["x"], values["h0"], values["c0"], strict=True)
    weights = [values[name].tolist() for name in ("Wx", "Wh", "b")]
    expected = [oracle.step(x.tolist(), h0.tolist(), c0.tolist(), *weights) for x, h0, c0 in rows]
    assert_close(h, np.array([h for h, _ in expected]), like=arrays["x"])
    assert_close(c, np.array([c for _, c in expected]), like=arrays["x"])


def test_no_rows(lib):
    _, arrays = step_problem(lib, N=0)
    h, c, cache = lstm_step_forward(*(arrays[name] for name in ORDER))
    gradients = lstm_step_backward(h, c, cache)
    assert_close(h, arrays["h0"])
    assert_close(c, arrays["c0"])
    for name, gradient in zip(ORDER, gradients, strict=True):
        assert_close(gradient, 0 * arrays[name], name=name)


def test_no_bias_is_zeros(lib):
    _, arrays = step_problem(lib)
    *inputs, b = (arrays[name] for name in ORDER)
    h, c, cache = lstm_step_forward(*inputs, None)
    expected_h, expected_c, expected_cache = lstm_step_forward(*inputs, 0 * b)
    assert_close(h, expected_h)
    assert_close(c, expected_c)
    gradients = lstm_step_backward(h, c, cache)
    for name, gradient, expected in zip(ORDER, gradients, lstm_step_backward(h, c, expected_cache), strict=True):
        assert_close(gradient, expected, kind="gradient", name=name)


@pytest.mark.parametrize("absent", [0, 1], ids=["dnext_h", "dnext_c"])
def test_an_absent_cotangent_is_zeros(lib, absent):
    _, arrays = step_problem(lib)
    _, _, cache = lstm_step_forward(*(arrays[name] for name in ORDER))
    given_ones = [arrays["dh_n"], arrays["dc_n"]]
    zeros = [0 * array if k == absent else array for k, array in enumerate(given_ones)]
    given_ones[absent] = None
    for gradient, expected in zip(
        lstm_step_backward(*given_ones, cache), lstm_step_backward(*zeros, cache), strict=True
    ):
        assert_close(gradient, expected, kind="gradient")


def test_cache_refers_to_the_arguments_and_holds_the_gates(library):
    values, arrays = step_problem(library("numpy"))
    inputs = [arrays[name] for name in ORDER]
    h, c, cache = lstm_step_forward(*inputs)
    assert isinstance(cache, StepCache)
    assert all(a is b for a, b in zip(cache[:6], inputs, strict=True))
    a = values["x"] @ values["Wx"] + values["h0"] @ values["Wh"] + values["b"]
    for k, gate in enumerate("ifog"):
        block = a[:, 2 * k : 2 * k + 2]
        expected = np.tanh(block) if gate == "g" else 1 / (1 + np.exp(-block))
        assert_close(getattr(cache, gate), expected, name=gate)
    assert_close(cache.next_c, c)
    assert_close(cache.o * np.tanh(cache.next_c), h)


def test_gradients_are_named(library):
    _, arrays = step_problem(library("numpy"))
    h, c, cache = lstm_step_forward(*(arrays[name] for name in ORDER))
    gradients = lstm_step_backward(h, c, cache)
    assert isinstance(gradients, StepGradients)
    assert gradients._fields == ("dx", "dprev_h", "dprev_c", "dWx", "dWh", "db")


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_sigmoid_saturates_exactly(dtype):
    z = np.array([-np.inf, -1e4, 0.0, 1e4, np.inf], dtype)
    assert np.array_equal(sigmoid(z, np), np.array([0, 0, 0.5, 1, 1], dtype))
    assert sigmoid(z, np).dtype == dtype
    assert np.isnan(sigmoid(np.array([np.nan], dtype), np)).all()


def test_sigmoid_is_the_logistic_function():
    z = np.linspace(-40, 40, 1001)
    exact = np.array([oracle.sigmoid(value, oracle.math) for value in z])
    assert_close(sigmoid(z, np), exact)
