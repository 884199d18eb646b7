"""Half types, complex numbers, and what each dtype is computed with."""

import numpy as np
import pytest
from problems import (  # fmt: skip
    ORDERS,
    OUTPUTS,
    compare,
    forward,
    given,
    host,
    random_problem,
    reference,
    rounded,
    run,
    same_bits,
    skip_without,
)

from lstm_xp import lstm_backward, lstm_forward, lstm_step_backward, lstm_step_forward
from lstm_xp.checks import COMPUTE_DTYPE, dtype_name
from lstm_xp.libraries import DTYPES
from lstm_xp.testing import assert_close

HALF = ("float16", "bfloat16")


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_against_float64(lib, engine, dtype):
    skip_without(lib, dtype)
    if lib.name in ("jax", "dask") and dtype in ("float64", "float16"):
        pytest.skip(f"{lib.name}: in the tests of sequences and engines")
    values, order = random_problem(), ORDERS["reverse, lengths"]
    arrays = given(lib, values, dtype)
    results = run(arrays, engine=engine, **order)
    compare(results, reference(rounded(values, dtype), **order), arrays["x"], steps=5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_step_in_every_dtype_against_float64(lib, dtype):
    skip_without(lib, dtype)
    names = ("x", "h0", "c0", "Wx", "Wh", "b")
    values = random_problem()
    values["x"] = values["x"][:, 0]
    arrays, exact = given(lib, values, dtype), rounded(values, dtype)
    h, c, cache = lstm_step_forward(*(arrays[name] for name in names))
    expected_h, expected_c, expected_cache = lstm_step_forward(*(exact[name] for name in names))
    assert_close(h, expected_h, like=arrays["x"])
    assert_close(c, expected_c, like=arrays["x"])
    for gate in ("i", "f", "o", "g", "next_c"):
        assert dtype_name(getattr(cache, gate).dtype) == COMPUTE_DTYPE[dtype]
    gradients = lstm_step_backward(arrays["dh_n"], arrays["dc_n"], cache)
    expected = lstm_step_backward(exact["dh_n"], exact["dc_n"], expected_cache)
    for name, gradient, right in zip(names, gradients, expected, strict=True):
        assert_close(gradient, right, like=arrays["x"], kind="gradient", name=f"d{name}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_cache_has_the_compute_dtype(lib, engine, dtype):
    skip_without(lib, dtype)
    _, cache = forward(given(lib, random_problem(), dtype), engine=engine)
    for name in ("c", "gates", "i", "f", "o", "g"):
        assert dtype_name(getattr(cache, name).dtype) == COMPUTE_DTYPE[dtype], name
    for name in ("h", "h_n", "c_n"):
        assert dtype_name(getattr(cache, name).dtype) == dtype, name


@pytest.mark.parametrize("dtype", HALF)
def test_sums_are_formed_in_float32(library, engine, dtype):
    """300 equal rows: a sum in the half type would stop growing, or lose most digits."""
    name = "numpy" if dtype == "float16" else "torch"
    lib = library(name)
    one = random_problem(N=1, T=2)
    many = {key: np.repeat(value, 300, axis=0) if len(value) == 1 else value for key, value in one.items()}
    engine = engine if name == "numpy" else "array_api"
    arrays = given(lib, many, dtype)
    compare(run(arrays, engine=engine), reference(rounded(many, dtype)), arrays["x"], steps=2)


@pytest.mark.parametrize("dtype", HALF)
def test_chunks_agree_with_the_whole(lib, engine, dtype, monkeypatch):
    """c stays float32 between the chunks of a call without training: the same bits, however it is cut."""
    skip_without(lib, dtype)
    arrays = given(lib, random_problem(), dtype)
    whole = host(run(arrays, engine=engine))
    monkeypatch.setattr("lstm_xp.stages.CHUNK", 1)
    chunked = host(run(arrays, engine=engine, training=False))
    for name in OUTPUTS:
        assert same_bits(chunked[name], whole[name]), name


@pytest.mark.parametrize("big", [60000.0, 200.0])
@pytest.mark.computes("float16")
def test_float16_saturates(engine, big):
    """Pre-activations beyond float16's range are float32's: gates saturate, nothing becomes inf or NaN."""
    values = {name: value.astype(np.float16) for name, value in random_problem().items()}
    values["x"][:] = np.where(values["x"] > 0, np.float16(big), np.float16(-big))
    values["Wx"] *= np.float16(50)
    results = run(values, engine=engine)
    exact = {name: value.astype(np.float64) for name, value in values.items()}
    for name in OUTPUTS:
        assert np.all(np.isfinite(results[name])), name
    compare({name: results[name] for name in OUTPUTS}, reference(exact), values["x"], steps=5)


@pytest.mark.computes("float16")
def test_float16_overflows_only_where_it_must(engine):
    """A gradient beyond 65504 is inf, when it is rounded at the end and not before."""
    values = {name: value.astype(np.float16) for name, value in random_problem(N=2000).items()}
    values["dh"] *= np.float16(10000)
    with np.errstate(over="ignore"):
        results = run(values, engine=engine)
        exact = run({name: value.astype(np.float64) for name, value in values.items()}, engine="array_api")
        expected = {name: value.astype(np.float16) for name, value in exact.items()}
    assert np.array_equal(np.isinf(results["dWx"]), np.isinf(expected["dWx"]))
    assert np.any(np.isinf(results["dWx"]))
    assert not np.any(np.isnan(results["dWx"]))


@pytest.mark.computes("bfloat16")
def test_bfloat16_of_ml_dtypes_on_numpy(engine):
    """NumPy has no bfloat16 of its own, but takes the one of ml_dtypes, and so do the functions."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values, order = random_problem(), ORDERS["reverse, lengths"]
    arrays = {name: value.astype(ml_dtypes.bfloat16) for name, value in values.items()}
    results = run(arrays, engine=engine, **order)
    compare(results, reference(rounded(values, "bfloat16"), **order), arrays["x"], steps=5)


COMPLEX = ("x", "h0", "Wx", "Wh", "b", "c0")


def test_complex128_is_computed_as_it_is():
    values = random_problem()
    h, cache = forward({name: values[name].astype(complex) for name in COMPLEX}, engine="array_api")
    expected, _ = forward(values, engine="array_api")
    assert h.dtype == complex
    assert_close(h.real, expected, steps=5)
    assert not np.any(h.imag)
    assert cache.gates.dtype == complex


def test_complex128_of_a_step():
    values = random_problem()
    arguments = [values["x"][:, 0], *(values[name] for name in ("h0", "c0", "Wx", "Wh", "b"))]
    h, c, cache = lstm_step_forward(*(value.astype(complex) for value in arguments))
    assert h.dtype == c.dtype == complex
    gradients = lstm_step_backward(h, c, cache)
    assert all(gradient.dtype == complex for gradient in gradients)


def test_auto_takes_the_reference_for_complex():
    values = random_problem()
    _, cache = forward({name: values[name].astype(complex) for name in COMPLEX})
    assert cache.engine == "array_api"
    gradients = lstm_backward(values["dh"].astype(complex), cache)
    assert gradients.dx.dtype == complex


def test_float32_stays_float32_beside_python_scalars(lib, engine):
    """No step of the way widens float32 (a zero-dimensional float64 would)."""
    arrays = given(lib, random_problem(), "float32")
    for name, result in run(arrays, engine=engine).items():
        assert dtype_name(result.dtype) == "float32", name


def test_integers_are_not_cast(library):
    values = random_problem()
    integers = {name: library("numpy").asarray(np.ones_like(value), "int64") for name, value in values.items()}
    with pytest.raises(TypeError, match="floating dtype"):
        lstm_forward(*(integers[name] for name in ("x", "h0", "Wx", "Wh", "b")))
