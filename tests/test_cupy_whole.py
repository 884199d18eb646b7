"""Whole calls on CuPy arrays (`cuda/whole.py`), on the fake device: what callers may hand in."""

import fake_cupy
import numpy as np
import pytest
from on_fake import LIB, forget, machine_of, plain
from problems import (
    GRADIENTS,
    ORDERS,
    backward,
    compare,
    forward,
    orders,
    random_problem,
    reference,
    rounded,
    run,
    same_bits,
)
from test_cupy_engines import whole

from lstm_xp.engines.cuda import whole as calls
from lstm_xp.testing import limit, relative_error

DTYPES = ("float64", "float32", "float16", "bfloat16")
dtypes = pytest.mark.parametrize("dtype", DTYPES)


@pytest.fixture(params=["C++", "NumPy"])
def machine(request, monkeypatch):
    """With the CUDA source compiled as C++, and with kernels written once more in terms of NumPy."""
    yield machine_of(monkeypatch, request.getfixturevalue("kernels_on_cpu") if request.param == "C++" else None)
    forget()


def engine_of(dtype):
    """The quickest here."""
    return whole("cupy_fused" if dtype == "float64" else "cupy_rows")


def arrays_of(values, dtype):
    return {name: np.asarray(LIB.asarray(value, dtype)) for name, value in values.items()}


def used(machine):
    return {call[0] for call in machine.calls}


def wide(v, times=2):
    """The same numbers as every second one of a wider array."""
    out = np.full((*v.shape[:-1], times * v.shape[-1]), np.nan, v.dtype)
    out[..., ::times] = v
    return out[..., ::times]


LAYOUTS = {
    "Fortran": np.asfortranarray,
    "strided": wide,
    "backwards": lambda v: np.ascontiguousarray(v[::-1])[::-1],
    "misaligned": lambda v: np.concatenate([v.ravel()[:1], v.ravel()])[1:].reshape(v.shape),
}


@dtypes
@orders
@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrays_of_any_strides(machine, layout, order, dtype):
    values = random_problem(H=6)
    arrays = arrays_of(values, dtype)
    odd = {name: LAYOUTS[layout](v) for name, v in arrays.items()}
    results = run(odd, engine=engine_of(dtype), **order)
    assert "factors" in used(machine)
    compare({name: np.asarray(v) for name, v in results.items()},
            reference(rounded(values, dtype), **order), arrays["x"], 5)  # fmt: skip
    machine.used()


@dtypes
@pytest.mark.parametrize("missing", [("h0",), ("c0",), ("b",), ("h0", "c0", "b"), ("dh",), ("dh_n",), ("dc_n",),
                                     ("dh_n", "dc_n"), ("dh", "dc_n")], ids=str)  # fmt: skip
@pytest.mark.parametrize("order", ["forward", "reverse, lengths"])
def test_what_is_not_given_is_zeros(machine, missing, order, dtype):
    arrays, options = arrays_of(random_problem(H=6), dtype), ORDERS[order] | {"engine": engine_of(dtype)}
    zeros = arrays | {name: np.zeros_like(arrays[name]) for name in missing}
    found = plain(run({name: v for name, v in arrays.items() if name not in missing}, **options))
    expected = plain(run(zeros, **options))
    assert all(same_bits(found[name], expected[name]) for name in expected)
    assert all(np.any(found[name]) for name in GRADIENTS)


@dtypes
def test_one_number_for_all(machine, dtype):
    """Strides of 0."""
    arrays = arrays_of(random_problem(H=6), dtype)
    single = {name: np.broadcast_to(arrays[name].ravel()[:1].reshape((1,) * arrays[name].ndim), arrays[name].shape)
              for name in ("x", "h0", "c0", "b", "dh", "dh_n")}  # fmt: skip
    copied = {name: np.array(v) for name, v in single.items()}
    found, expected = (plain(run(arrays | given, engine=engine_of(dtype))) for given in (single, copied))
    assert all(same_bits(found[name], expected[name]) for name in expected)


@dtypes
@pytest.mark.parametrize("sizes", [{"T": 1}, {"N": 1}, {"N": 1, "T": 1}, {"D": 1, "H": 1}, {"D": 9, "H": 33}], ids=str)
def test_sizes(machine, sizes, dtype):
    values = random_problem(**{"H": 6} | sizes)
    arrays = arrays_of(values, dtype)
    results = run(arrays, engine=engine_of(dtype))
    compare({name: np.asarray(v) for name, v in results.items()}, reference(rounded(values, dtype)), arrays["x"], 5)
    machine.used()


@dtypes
@orders
def test_without_dx(machine, order, dtype):
    arrays = arrays_of(random_problem(H=6), dtype)
    _, cache = forward(arrays, engine=engine_of(dtype), **order)
    some, every = (backward(arrays, cache, need_dx=need_dx) for need_dx in (False, True))
    assert some.pop("dx") is None
    assert all(same_bits(np.asarray(v), np.asarray(every[name])) for name, v in some.items())


@dtypes
@orders
def test_other_caches_and_larger_problems_go_another_way(machine, monkeypatch, order, dtype):
    arrays = arrays_of(random_problem(H=6), dtype)
    _, cache = forward(arrays, engine=engine_of(dtype), **order)
    expected = plain(backward(arrays, cache))
    turned = cache._replace(gates=np.asfortranarray(np.asarray(cache.gates)), c=np.asfortranarray(np.asarray(cache.c)))
    machine.calls.clear()
    found = [plain(backward(arrays, turned))]
    monkeypatch.setattr(calls, "MOST", 1)
    found.append(plain(backward(arrays, cache)))
    assert "factors" not in used(machine)
    for results in found:
        compare(results, {name: np.asarray(v, np.float64) for name, v in expected.items()}, arrays["x"], 5)


LENGTHS = [3, 0, 5, 1]  # of rows of five steps


def behind(arrays, value):
    """The same problem with a number behind the lengths, and in the initial states of the row that has no steps."""
    found = {name: v.copy() for name, v in arrays.items()}
    for n, length in enumerate(LENGTHS):
        for name in ("x", "dh"):
            found[name][n, length:] = value
    for name in ("h0", "c0"):
        found[name][LENGTHS.index(0)] = value
    return found


@dtypes
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_behind_the_lengths_is_not_looked_at(machine, value, reverse, dtype):
    arrays, options = arrays_of(random_problem(H=6), dtype), {"engine": engine_of(dtype), "reverse": reverse}
    found, expected = (plain(run(v, lengths=LENGTHS, **options)) for v in (behind(arrays, value), arrays))
    for name in expected:
        if name in ("h_n", "c_n"):  # of a row without steps, what it began with
            kept = found[name][1].astype(np.float64)
            assert np.array_equal(kept, np.full(6, value), equal_nan=True)
            found[name][1] = expected[name][1]
        assert same_bits(found[name], expected[name]), name


@dtypes
@pytest.mark.parametrize("reverse", [False, True])
def test_a_row_that_ends_as_nan_keeps_it_to_itself(machine, reverse, dtype):
    arrays, options = arrays_of(random_problem(H=6), dtype), {"engine": engine_of(dtype), "reverse": reverse}
    expected = {name: v.astype(np.float64) for name, v in plain(run(arrays, lengths=LENGTHS, **options)).items()}
    arrays["x"][0, 0 if reverse else 2] = np.nan
    found = {name: v.astype(np.float64) for name, v in plain(run(arrays, lengths=LENGTHS, **options)).items()}
    assert np.all(np.isnan(found["h_n"][0]))
    assert np.all(np.isnan(found["c_n"][0]))
    for name in ("h", "h_n", "c_n", "dx", "dh0", "dc0"):
        assert np.array_equal(found[name][1:], expected[name][1:]), name
    for name in ("h", "dx"):
        assert np.all(found[name][0, 3:] == 0), name


@dtypes
@pytest.mark.parametrize("order", ["lengths", "reverse, lengths"])
def test_without_training_the_same_bits(machine, order, dtype):
    arrays, options = arrays_of(random_problem(H=6), dtype), ORDERS[order] | {"engine": engine_of(dtype)}
    (h, cache), (kept_h, kept) = (forward(arrays, training=training, **options) for training in (False, True))
    assert cache.gates is None
    for one, other in ((h, kept_h), (cache.h_n, kept.h_n), (cache.c_n, kept.c_n)):
        assert same_bits(np.asarray(one), np.asarray(other))


@dtypes
def test_gates_of_rows_of_several_lengths(machine, dtype):
    """In the caller's order of time, zeros behind the lengths: as by another way."""
    values = random_problem(H=6)
    arrays, exact = arrays_of(values, dtype), rounded(values, dtype)
    for reverse in (False, True):
        _, cache = forward(arrays, engine=engine_of(dtype), lengths=LENGTHS, reverse=reverse)
        _, expected = forward(exact, engine="numpy_fused", lengths=LENGTHS, reverse=reverse)
        for gate in "ifog":
            v = np.asarray(getattr(cache, gate))
            assert relative_error(v, getattr(expected, gate)) <= limit(dtype, "forward", 5), gate
            assert np.all(v[0, 3:] == 0)


def test_sums_of_a_bias_are_not_rounded_to_tf32(machine):
    arrays = arrays_of(random_problem(H=6, T=40), "float32")
    exact, coarse = (run(arrays, engine=whole("cupy_fused", precision=precision)) for precision in ("ieee", "tf32"))
    assert not same_bits(np.asarray(exact["dWx"]), np.asarray(coarse["dWx"]))
    da = [np.asarray(v, np.float64) for v in (exact["db"], coarse["db"])]
    assert np.max(np.abs(da[0] - da[1])) < 2e-3 * np.max(np.abs(da[0]))
    kinds = {call[1] for call in machine.calls if call[0] == "gemmEx" and call[3][1] == 1}
    assert kinds == {fake_cupy.COMPUTE_TYPES["32F"]}


def test_too_little_memory(machine):
    arrays = arrays_of(random_problem(H=6), "float32")
    for name, v in arrays.items():
        arrays[name] = v.view(fake_cupy.Array)
    engine = engine_of("float32")
    _, cache = forward(arrays, engine=engine)
    machine.memory = machine.used() + 1000
    for call in (lambda: forward(arrays, engine=engine), lambda: backward(arrays, cache)):
        with pytest.raises(MemoryError, match=r"^cupy_rows: (h, c|da) and .* need 0.00 GB on cuda:0, where"):
            call()
