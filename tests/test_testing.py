"""`lstm_xp.testing`: what it must accept, and what it must not."""

import numpy as np
import pytest
from problems import ReadOnly, random_problem

from lstm_xp import lstm_step_backward, lstm_step_forward
from lstm_xp.libraries import DTYPES, Missing, open_library, to_numpy
from lstm_xp.testing import DERIVATIVE_LIMITS, TOLERANCES, assert_close, check_gradients, limit, relative_error


def test_equal_arrays_are_close(lib):
    array = lib.asarray(random_problem()["x"])
    assert assert_close(array, array) == 0


def test_another_library_is_not_close(library):
    values = np.ones((2, 3))
    strict = library("array-api-strict").asarray(values)
    with pytest.raises(AssertionError, match="dx: library is array_api_strict, expected numpy"):
        assert_close(strict, values, name="dx")
    with pytest.raises(AssertionError, match="result: library is numpy, expected array_api_strict"):
        assert_close(values, strict)
    with pytest.raises(AssertionError, match="library is numpy, expected array_api_strict"):
        assert_close(values, values, like=strict)


def test_another_device_is_not_close(library):
    lib = library("array-api-strict")
    here = lib.asarray(np.ones(3))
    there = here.to_device(lib.xp.Device("CPU_DEVICE"))
    with pytest.raises(AssertionError, match=r"device is .*CPU_DEVICE.*, expected .*device1"):
        assert_close(there, here)


def test_another_dtype_is_not_close():
    with pytest.raises(AssertionError, match="result: dtype is float32, expected float64"):
        assert_close(np.ones(3, np.float32), np.ones(3))


@pytest.mark.parametrize("shape", [(3,), (1, 4), (4, 1), ()])
def test_another_shape_is_not_close(shape):
    with pytest.raises(AssertionError, match=r"result: shape is .*, expected "):
        assert_close(np.ones(shape), np.ones(4))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("kind", ["forward", "gradient"])
@pytest.mark.parametrize("steps", [1, 9])
def test_values_are_close_up_to_the_limit_and_not_beyond(dtype, kind, steps):
    exact = np.full((2, 4), 1.0)
    most = limit(dtype, kind, steps)
    like = np.ones(1, dtype)
    # 1 + a whole number of eps is exact in every dtype.
    units = int(most / TOLERANCES[dtype].eps)
    inside, outside = ((exact + k * TOLERANCES[dtype].eps).astype(dtype) for k in (units, units + 1))
    assert 0 < assert_close(inside, exact, like=like, kind=kind, steps=steps) <= 1
    with pytest.raises(AssertionError, match="times the limit"):
        assert_close(outside, exact, like=like, kind=kind, steps=steps)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_must_be_in_both(odd):
    values = np.arange(6.0).reshape(2, 3)
    spoiled = values.copy()
    spoiled[1, 1] = odd
    assert assert_close(spoiled, spoiled.copy()) == 0
    for a, b in ((spoiled, values), (values, spoiled), (spoiled, -spoiled if np.isinf(odd) else values)):
        assert relative_error(a, b) == np.inf
        with pytest.raises(AssertionError):
            assert_close(a, b)


def test_what_is_not_finite_hides_no_error_beside_it():
    expected = np.array([np.nan, 1.0, 2.0])
    with pytest.raises(AssertionError):
        assert_close(np.array([np.nan, 1.0, 2.1]), expected)


def test_an_error_where_all_should_be_zero():
    assert assert_close(np.zeros(3), np.zeros(3)) == 0
    with pytest.raises(AssertionError):
        assert_close(np.full(3, 1e-300), np.zeros(3))


@pytest.mark.parametrize("scale", [1e-300, 1e-10, 1.0, 1e10, 1e300])
def test_errors_are_relative(scale):
    values = random_problem()["Wx"]
    wrong = values * (1 + 1e-9)
    assert 0.9e-9 < relative_error(wrong * scale, values * scale) < 1.1e-9


def test_one_wrong_row_among_many():
    values = np.ones((1000, 4))
    wrong = values.copy()
    wrong[500] += 100 * limit("float64")
    with pytest.raises(AssertionError):
        assert_close(wrong, values)


def test_nothing_to_compare_is_close():
    assert assert_close(np.ones((0, 3)), np.ones((0, 3))) == 0


def test_bfloat16(library):
    lib = library("torch")
    array = lib.asarray(np.array([1.0, 2.0, 3.0]), "bfloat16")
    assert assert_close(array, np.array([1.0, 2.0, 3.0]), like=array) == 0
    with pytest.raises(AssertionError):
        assert_close(array, np.array([1.0, 2.0, 3.1]), like=array)


def test_limits_grow_with_the_square_root_of_the_steps():
    for dtype in DTYPES:
        for kind in ("forward", "gradient"):
            assert limit(dtype, kind, 100) == 10 * limit(dtype, kind, 1) == 10 * limit(dtype, kind)
            assert limit(dtype, kind, 0) == limit(dtype, kind, 1)


# check_gradients: a function whose gradient is known, and ways to get it wrong.
def tanh_layer(x, w):
    y = np.tanh(x @ w)
    return (y,), (x, w, y)


def tanh_layer_backward(cotangents, cache):
    x, w, y = cache
    da = cotangents[0] * (1 - y * y)
    return {"x": da @ w.T, "w": x.T @ da}


def layer_arguments():
    rng = np.random.default_rng(5)
    return {"x": rng.standard_normal((4, 3)), "w": rng.standard_normal((3, 2))}


@pytest.mark.parametrize("method", DERIVATIVE_LIMITS)
def test_right_gradients_pass(method):
    errors = check_gradients(tanh_layer, tanh_layer_backward, layer_arguments(), method=method)
    assert set(errors) == {"x", "w"}
    assert max(errors.values()) <= DERIVATIVE_LIMITS[method]


WRONG = {
    "scaled": lambda g: g * (1 + 1e-6),
    "negated": lambda g: -g,
    "one entry": lambda g: g + np.eye(*g.shape) * 1e-5,
    "rows swapped": lambda g: g[::-1],
    "not a number": lambda g: g * np.nan,
}


@pytest.mark.parametrize("method", DERIVATIVE_LIMITS)
@pytest.mark.parametrize("name", ["x", "w"])
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_gradients_fail(method, name, wrong):
    def backward(cotangents, cache):
        gradients = tanh_layer_backward(cotangents, cache)
        return {**gradients, name: WRONG[wrong](gradients[name])}

    with pytest.raises(AssertionError, match=f"gradient of {name}: .* along a random direction, .* by {method}"):
        check_gradients(tanh_layer, backward, layer_arguments(), method=method)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (lambda g: g * 0, "gradient of w: all zeros"),
        (lambda g: g.T, "gradient of w: .* expected"),
        (lambda g: g.astype("float32"), "gradient of w: .*float32, expected .*float64"),
    ],
    ids=["zeros", "shape", "dtype"],
)
def test_malformed_gradients_fail(wrong, text):
    def backward(cotangents, cache):
        gradients = tanh_layer_backward(cotangents, cache)
        return {**gradients, "w": wrong(gradients["w"])}

    with pytest.raises(AssertionError, match=text):
        check_gradients(tanh_layer, backward, layer_arguments())


def test_check_gradients_on_float64_only():
    arguments = layer_arguments()
    arguments["w"] = arguments["w"].astype("float32")
    with pytest.raises(TypeError) as raised:
        check_gradients(tanh_layer, tanh_layer_backward, arguments)
    assert str(raised.value) == "check_gradients: w must be float64; got float32."


def test_check_gradients_of_an_unknown_method():
    with pytest.raises(ValueError, match="method") as raised:
        check_gradients(tanh_layer, tanh_layer_backward, layer_arguments(), method="symbolic")
    assert str(raised.value) == "check_gradients: method must be one of complex, difference; got 'symbolic'."


def test_check_gradients_is_reproducible():
    first, second = (check_gradients(tanh_layer, tanh_layer_backward, layer_arguments(), seed=3) for _ in range(2))
    assert first == second
    assert first != check_gradients(tanh_layer, tanh_layer_backward, layer_arguments(), seed=4)


def test_check_gradients_as_a_user_calls_it(lib):
    values = random_problem()
    names = {"x": "x", "prev_h": "h0", "prev_c": "c0", "Wx": "Wx", "Wh": "Wh", "b": "b"}
    values["x"] = values["x"][:, 0]
    arguments = {name: lib.asarray(values[of]) for name, of in names.items()}

    def forward(**arguments):
        h, c, cache = lstm_step_forward(**arguments)
        return (h, c), cache

    def backward(cotangents, cache):
        gradients = lstm_step_backward(*cotangents, cache)
        return {name: getattr(gradients, f"d{name}") for name in names}

    errors = check_gradients(forward, backward, arguments, directions=1)
    assert set(errors) == set(names)


# lstm_xp.libraries, which the tests themselves stand on.
def test_there_and_back(lib):
    values = random_problem()["x"]
    for dtype in lib.dtypes():
        array = lib.asarray(values, dtype)
        back = to_numpy(array)
        assert isinstance(back, np.ndarray)
        assert assert_close(array, to_numpy(array).astype(float), like=array) == 0
        assert relative_error(array, values) <= TOLERANCES[dtype].eps


def test_read_only_arrays_are_read_only():
    array = ReadOnly(*open_library("numpy")).asarray(np.ones(3))
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 2


def test_a_missing_library_says_so(monkeypatch):
    monkeypatch.setattr("lstm_xp.libraries.find_spec", lambda name: None)
    with pytest.raises(Missing, match="dask is not installed"):
        open_library("dask")
