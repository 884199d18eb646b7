"""Arrays as they come: any layout in memory, huge values, NaN and infinities."""

import numpy as np
import oracle
import proofs
import pytest
from problems import (  # fmt: skip
    ARGUMENTS,
    COTANGENTS,
    OUTPUTS,
    compare,
    forward,
    given,
    orders,
    random_problem,
    reference,
    run,
    same_bits,
)

import lstm_xp
from lstm_xp.testing import assert_close

LAYOUTS = {
    "Fortran": np.asfortranarray,
    "every second": lambda v: np.repeat(v, 2, axis=-1)[..., ::2],
    "negative strides": lambda v: np.flip(np.flip(v).copy()),
    "time-major": lambda v: np.ascontiguousarray(v.swapaxes(0, 1)).swapaxes(0, 1) if v.ndim > 1 else v,
    "unaligned": lambda v: np.frombuffer(b"." + v.tobytes(), v.dtype, offset=1).reshape(v.shape),
    "read-only": lambda v: np.frombuffer(v.tobytes(), v.dtype).reshape(v.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@orders
def test_any_layout(engine, layout, order):
    values = random_problem()
    arrays = {name: LAYOUTS[layout](value) for name, value in values.items()}
    compare(run(arrays, engine=engine, **order), reference(values, **order), values["x"], steps=5)
    assert all(same_bits(arrays[name].astype(float), values[name]) for name in values)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_of_a_step(layout):
    values = random_problem()
    values["x"] = values["x"][:, 0]
    results = []
    for convert in (LAYOUTS[layout], np.array):
        arrays = {name: convert(value) for name, value in values.items()}
        h, c, cache = lstm_xp.lstm_step_forward(*(arrays[name] for name in ("x", "h0", "c0", "Wx", "Wh", "b")))
        results.append([h, c, *lstm_xp.lstm_step_backward(arrays["dh_n"], arrays["dc_n"], cache)])
    for result, expected in zip(*results, strict=True):
        assert_close(result, expected, kind="gradient")


@pytest.mark.parametrize("others", [True, False])
def test_bytes_in_another_order_are_refused(others):
    """Whether all arrays have them so, or some."""
    values = random_problem()
    swapped = {name: value.astype(value.dtype.newbyteorder()) for name, value in values.items()}
    arrays = swapped | ({} if others else {"x": values["x"]})
    told = r"got [<>]f8\. The bytes of x, h0, " if others else r"x: float64, h0: [<>]f8, .* The bytes of h0, Wx, "
    with pytest.raises(TypeError, match=rf"{told}.* are in another order .*: use v\.astype\(v\.dtype\.newbyteorder"):
        run(arrays)
    network = lstm_xp.LSTM(3, 2)
    params = (lstm_xp.Direction(*(arrays[name] for name in ("Wx", "Wh", "b"))),)
    for call in (network.forward, network.step):
        x = arrays["x"] if call == network.forward else arrays["x"][:, 0]
        with pytest.raises(TypeError, match=r"[<>]f8.*newbyteorder"):
            call(params, x, None)


def test_broadcast_views(engine):
    """One value that stands for many: what numpy.broadcast_to gives, with strides of zero."""
    values = random_problem()
    views = {name: np.broadcast_to(value.ravel()[0], value.shape) for name, value in values.items()}
    expected = reference({name: value.copy() for name, value in views.items()})
    compare(run(views, engine=engine), expected, values["x"], steps=5)


def test_arguments_may_be_one_array(engine):
    values = random_problem(N=4, T=5, D=2, H=2)
    values |= {"c0": values["h0"], "Wh": values["Wx"], "dc_n": values["h0"], "dh_n": values["h0"]}
    before = {name: value.copy() for name, value in values.items()}
    compare(run(values, engine=engine), reference(before), values["x"], steps=5)
    assert all(same_bits(values[name], before[name]) for name in values)


@pytest.mark.parametrize("layout", ["transposed", "strided"])
def test_views_of_torch(library, layout):
    lib, values = library("torch"), random_problem()
    arrays = given(lib, values)
    if layout == "transposed":
        arrays = {name: a.mT.contiguous().mT if a.ndim > 1 else a for name, a in arrays.items()}
    else:
        arrays = {name: lib.xp.stack([a, a], axis=-1)[..., 0] for name, a in arrays.items()}
    assert not arrays["Wx"].is_contiguous()
    compare(run(arrays), reference(values), arrays["x"], steps=5)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("size", [1e3, 1e6, 1e30])
@orders
def test_huge_preactivations_saturate(engine, dtype, size, order):
    """No warning (warnings are errors), no NaN: every gate is 0, 1 or -1, and the gradients are finite."""
    values = random_problem()
    values["x"] = np.sign(values["x"]) * size
    values = {name: value.astype(dtype) for name, value in values.items()}
    results = run(values, engine=engine, **order)
    for name, result in results.items():
        assert np.all(np.isfinite(result)), name
    expected = reference({name: value.astype(float) for name, value in values.items()}, **order)
    compare({name: results[name] for name in OUTPUTS}, expected, values["x"], steps=5)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_huge_preactivations_saturate_a_step(lib, dtype):
    values = random_problem()
    values["x"] = 1e6 * np.sign(values["x"][:, 0])
    arrays = given(lib, values, dtype)
    h, c, cache = lstm_xp.lstm_step_forward(*(arrays[name] for name in ("x", "h0", "c0", "Wx", "Wh", "b")))
    for array in (h, c, *cache[6:], *lstm_xp.lstm_step_backward(h, c, cache)):
        assert np.all(np.isfinite(lib.to_numpy(array)))


def test_not_a_number_stays_in_its_row_and_never_becomes_a_number(lib, engine):
    proofs.not_a_number_stays(lstm_xp, lib, engine)


PLACES = {"x": (2, 1, 1), "h0": (2, 1), "c0": (2, 0), "Wx": (1, 3), "Wh": (0, 6), "b": (5,)}


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", PLACES)
@orders
def test_what_is_not_finite_comes_out_where_mathematics_says(engine, name, odd, order):
    """Against plain Python floats: the same NaNs, the same infinities, and the same numbers elsewhere."""
    values = random_problem(seed=9)
    values[name][PLACES[name]] = odd
    lists = [values[argument].tolist() for argument in ("x", "h0", "c0", "Wx", "Wh", "b")]
    expected = dict(zip(OUTPUTS, map(np.array, oracle.lstm(*lists, **order)), strict=True))
    assert not all(np.all(np.isfinite(value)) for value in expected.values()) or np.isinf(odd)
    with np.errstate(invalid="ignore"):
        for training in (True, False):
            h, cache = forward(values, engine=engine, training=training, **order)
            compare({"h": h, "h_n": cache.h_n, "c_n": cache.c_n}, expected, values["x"], steps=5)


@pytest.mark.parametrize("odd", [np.nan, np.inf])
@pytest.mark.parametrize("name", [*ARGUMENTS, *COTANGENTS])
@orders
def test_gradients_are_not_numbers_where_those_of_the_steps_are_not(engine, name, odd, order):
    """NaN never becomes a number on the way back, nor a number NaN. With lengths it may, but in the same row only."""
    values = random_problem(seed=10)
    place = {"dh": (2, 1, 0), "dh_n": (2, 1), "dc_n": (2, 1), **PLACES}[name]
    values[name][place] = odd
    with np.errstate(invalid="ignore"):
        results, expected = run(values, engine=engine, **order), reference(values, **order)
    for gradient in ("dx", "dh0", "dc0", "dWx", "dWh", "db"):
        found, right = np.isnan(results[gradient]), np.isnan(expected[gradient])
        assert np.all(found[right]), f"a NaN in {name} became a number in {gradient}"
        if "lengths" in order:
            if name in ("Wx", "Wh", "b") or gradient in ("dWx", "dWh", "db"):
                continue
            found, right = (np.any(v.reshape(4, -1), axis=1) for v in (found, right))
        assert np.array_equal(found, right), f"a NaN in {name} spread in {gradient}"


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_nan_state_of_a_row_with_steps_stays_in_its_row(engine, reverse):
    values, lengths = random_problem(), [3, 0, 5, 1]
    values["c0"][0] = np.nan
    results = run(values, engine=engine, lengths=lengths, reverse=reverse)
    assert np.all(np.isnan(results["h"][0, :3]))
    assert not np.any(results["h"][0, 3:]), "behind the length there are zeros, not NaN"
    assert np.all(np.isnan(results["c_n"][0]))
    assert np.all(np.isnan(results["h_n"][0]))
    assert not np.any(results["dx"][0, 3:])
    for name in ("h", "h_n", "c_n", "dx", "dh0", "dc0"):
        assert np.all(np.isfinite(results[name][1:])), name


def test_masked_arrays_and_matrices_are_refused(engine):
    """Their operators mean something else."""
    values = random_problem()
    with pytest.warns(PendingDeprecationWarning):
        matrix = np.matrix(values["h0"])
    for odd in (np.ma.masked_array(values["h0"]), matrix):
        with pytest.raises(TypeError, match="h0 must be an array"):
            forward({**values, "h0": odd}, engine=engine)
