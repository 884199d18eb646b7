"""traces and saturation: against a loop of single steps, and on gates whose saturation is known."""

import numpy as np
import pytest
import variant_problems
from problems import ORDERS, forward, given, orders, random_problem, skip_without
from variant_problems import VARIANTS

import lstm_xp
from lstm_xp import LSTM, Saturation, Shares, Trace, lstm_forward, saturation, traces
from lstm_xp.libraries import to_numpy
from lstm_xp.parameters import Direction
from lstm_xp.testing import assert_close

N, T, D, H = 4, 5, 3, 2
GATES = ("i", "f", "o", "g", "c", "h")


def by_steps(values, lengths=None, reverse=False):
    """What `traces` should give for one direction, float64: a loop of single steps, row by row."""
    rows, steps, _ = values["x"].shape
    units = values["Wh"].shape[0]
    expected = {name: np.zeros((rows, steps, units)) for name in GATES}
    for n, length in enumerate([steps] * rows if lengths is None else lengths):
        row = slice(n, n + 1)
        h, c = values["h0"][row], values["c0"][row]
        for t in range(length)[::-1] if reverse else range(length):
            h, c, cache = lstm_xp.lstm_step_forward(values["x"][row, t], h, c, values["Wx"], values["Wh"], values["b"])
            found = {"i": cache.i, "f": cache.f, "o": cache.o, "g": cache.g, "c": c, "h": h}
            for name, value in found.items():
                expected[name][row, t] = value
    return expected


def compare(trace, expected, like, steps=T):
    for name in GATES:
        assert np.any(expected[name]), name
        assert_close(getattr(trace, name), expected[name], like=like, steps=steps, name=name)


@orders
def test_a_sequence_against_single_steps(lib, order):
    values = random_problem()
    arrays = given(lib, values)
    _, cache = forward(arrays, **order)
    (trace,) = traces(cache)
    compare(trace, by_steps(values, **order), arrays["x"])


@orders
def test_every_engine_against_single_steps(engine, order):
    values = random_problem(seed=1)
    (trace,) = traces(forward(values, engine=engine, **order)[1])
    compare(trace, by_steps(values, **order), values["x"])


@pytest.mark.parametrize("time_major", [False, True])
@pytest.mark.parametrize("lengths", [None, [3, 0, 5, 1]], ids=["full", "lengths"])
def test_layers_and_directions(lengths, time_major):
    """In the order of the parameters, each against single steps fed with the layer below."""
    network = LSTM(D, H, num_layers=2, bidirectional=True, time_major=time_major)
    params = network.init(dtype="float64", seed=3)
    rng = np.random.default_rng(0)
    x, h0, c0 = rng.standard_normal((N, T, D)), *rng.standard_normal((2, 4, N, H))
    given_x = np.swapaxes(x, 0, 1) if time_major else x
    y, _, cache = network.forward(params, given_x, (h0, c0), lengths=lengths)
    found = traces(cache)
    assert len(found) == 4
    features = x
    for layer in range(2):
        for k in (2 * layer, 2 * layer + 1):
            p = params[k]
            values = {"x": features, "h0": h0[k], "c0": c0[k], "Wx": p.Wx, "Wh": p.Wh, "b": p.b}
            compare(found[k], by_steps(values, lengths, reverse=k % 2 == 1), x, steps=2 * T)
        features = np.concatenate([found[2 * layer].h, found[2 * layer + 1].h], axis=-1)
    assert np.array_equal(features, np.swapaxes(y, 0, 1) if time_major else y)


@pytest.mark.parametrize("order", [ORDERS["forward"], ORDERS["reverse, lengths"]], ids=["forward", "reverse, lengths"])
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_variants(variant, order):
    """Row by row, step by step: each step run alone from the state that the trace has for the one before."""
    values = variant_problems.random_problem(variant)
    _, cache = variant_problems.forward(variant, values, **order)
    (trace,) = traces(cache)
    rows, steps, _ = values["x"].shape
    params = {name: values[name] for name in Direction._fields if name in values}
    expected = {name: np.zeros(getattr(trace, name).shape) for name in GATES}
    for n, length in enumerate(order.get("lengths", [steps] * rows)):
        h, c = values["h0"][n : n + 1], values["c0"][n : n + 1]
        for t in range(length)[::-1] if order.get("reverse") else range(length):
            one = slice(t, t + 1)
            alone = {"x": values["x"][n : n + 1, one], "h0": h, "c0": c, **params}
            alone |= {name: values[name][n : n + 1, one] for name in ("zoneout_h", "zoneout_c") if name in values}
            alone |= {"recurrent": values["recurrent"][n : n + 1]} if "recurrent" in values else {}
            h, step = variant_problems.forward(variant, alone)
            h, c = h[:, 0], step.c_n
            found = {"i": step.i, "f": step.f, "o": step.o, "g": step.g, "c": c, "h": h}
            for name, value in found.items():
                expected[name][n, t] = np.reshape(value, (-1,))
    compare(trace, expected, values["x"], steps)


def test_coupled_gates_add_up_to_one():
    network = LSTM(D, 5, coupled=True, proj_size=2)
    x = np.random.default_rng(0).standard_normal((N, T, D))
    _, _, cache = network.forward(network.init(dtype="float64"), x)
    (trace,) = traces(cache)
    assert np.array_equal(trace.f, 1 - trace.i)
    assert trace.h.shape == (N, T, 2)
    assert trace.c.shape == (N, T, 5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_gates_of_half_types_are_those_that_were_computed(lib, dtype):
    skip_without(lib, dtype)
    arrays = given(lib, random_problem(), dtype)
    _, cache = forward(arrays)
    (trace,) = traces(cache)
    assert str(trace.i.dtype).endswith("float32")
    assert trace.h.dtype == arrays["x"].dtype
    assert saturation(trace).i.left.dtype == trace.i.dtype


@pytest.mark.parametrize("sizes", [(0, T), (N, 0)], ids=["no rows", "no steps"])
@pytest.mark.parametrize("layer_norm", [False, True], ids=["plain", "variant"])
def test_nothing_to_trace(sizes, layer_norm):
    network = LSTM(D, H, layer_norm=layer_norm)
    _, _, cache = network.forward(network.init(), np.zeros((*sizes, D), np.float32))
    (trace,) = traces(cache)
    assert {getattr(trace, name).shape for name in GATES} == {(*sizes, H)}
    assert np.all(np.isnan(saturation(trace)))


# Saturation


def constructed(lib, lengths=None):
    """Gates at values around the thresholds, (N, T, H) = (2, 4, 3)."""
    steps = np.array([0.0, 0.05, 0.5, 0.95])
    i = np.zeros((2, 4, 3))
    i[:, :, 0] = steps  # half below 0.1, a quarter above 0.9
    i[:, :, 1] = 1.0
    i[0, :, 2], i[1, :, 2] = 0.5, 0.01  # half, all of the second row
    g = np.zeros((2, 4, 3))
    g[:, :, 0] = [-0.95, -0.5, 0.05, 0.99]
    g[:, :, 1] = -1.0
    values = {"i": i, "f": 1 - i, "o": np.full_like(i, 0.5), "g": g, "c": i, "h": i}
    return Trace(**given(lib, values), lengths=lengths)


def shown(found):
    """The shares as lists."""
    return {gate: tuple(to_numpy(side).tolist() for side in shares) for gate, shares in found._asdict().items()}


def test_saturation_of_constructed_gates(lib):
    found = saturation(constructed(lib))
    assert shown(found) == {
        "i": ([0.5, 0.0, 0.5], [0.25, 1.0, 0.0]),
        "f": ([0.25, 1.0, 0.0], [0.5, 0.0, 0.5]),
        "o": ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
        "g": ([0.25, 1.0, 0.0], [0.25, 0.0, 0.0]),
    }
    assert isinstance(found, Saturation)
    assert isinstance(found.f, Shares)


@pytest.mark.parametrize("of", ["the trace", "the call"])
def test_padding_does_not_count(lib, of):
    """The same gates with lengths 3 and 1: four steps in all."""
    lengths = [3, 1]
    found = saturation(constructed(lib, lengths)) if of == "the trace" else saturation(constructed(lib), lengths)
    expected_i = ([0.75, 0.0, 0.25], [0.0, 1.0, 0.0])  # values 0, 0.05, 0.5 and 0 of unit 0
    assert shown(found)["i"] == expected_i
    assert shown(found)["f"] == expected_i[::-1]
    assert shown(found)["g"] == ([0.5, 1.0, 0.0], [0.0, 0.0, 0.0])


def test_lengths_on_a_device(lib):
    lengths = lib.asarray(np.array([3, 1]))
    assert shown(saturation(constructed(lib), lengths))["i"] == ([0.75, 0.0, 0.25], [0.0, 1.0, 0.0])


@pytest.mark.parametrize("reverse", [False, True])
def test_padding_of_a_run_is_left_out(reverse):
    """What lies behind the lengths changes nothing: neither NaN there, nor how much of it there is."""
    values = random_problem(T=9, H=6)
    values["Wx"] *= 8  # so that gates do saturate
    short, long = [3, 0, 5, 1], dict(values)
    long["x"] = values["x"].copy()
    for n, length in enumerate(short):
        long["x"][n, length:] = np.nan
    cut = {**values, "x": values["x"][:, :5]}
    results = []
    for arrays in (long, cut):
        (trace,) = traces(forward(arrays, lengths=short, reverse=reverse)[1])
        results.append(shown(saturation(trace)))
    assert results[0] == results[1]
    counted = by_steps(values, short, reverse)
    valid = np.arange(9)[None, :] < np.array(short)[:, None]
    assert results[0]["f"][0] == [np.mean(counted["f"][..., k][valid] < 0.1) for k in range(6)]
    assert results[0]["g"][1] == [np.mean(counted["g"][..., k][valid] > 0.9) for k in range(6)]
    assert 0 < max(results[0]["i"][0]) < 1


def test_thresholds_are_excluded_and_may_be_others():
    lib = lstm_xp.libraries.open_library("numpy")
    trace = constructed(lib)
    assert saturation(trace, low=0.05).i.left.tolist() == [0.25, 0.0, 0.5]
    assert saturation(trace, high=0.95).i.right.tolist() == [0.0, 1.0, 0.0]
    assert saturation(trace, high=0.95).g.left.tolist() == [0.0, 1.0, 0.0]


def test_no_steps_have_no_share(lib):
    found = saturation(constructed(lib), [0, 0])
    assert all(np.all(np.isnan(to_numpy(side))) for shares in found for side in shares)


def test_a_gate_that_is_nan_counts_as_neither():
    lib = lstm_xp.libraries.open_library("numpy")
    trace = constructed(lib)
    trace.i[0, 0, 0] = np.nan
    assert saturation(trace).i.left.tolist() == [0.375, 0.0, 0.5]


# Errors


@pytest.mark.parametrize(
    "network", [None, LSTM(D, H), LSTM(D, H, peepholes=True)], ids=["sequence", "plain", "variant"]
)
def test_a_cache_without_gates(network):
    values = random_problem()
    if network is None:
        _, cache = forward(values, training=False)
    else:
        _, _, cache = network.forward(network.init(dtype="float64"), values["x"], training=False)
    with pytest.raises(ValueError, match=r"traces: the cache was made with training=False, .* use training=True"):
        traces(cache)


@pytest.mark.parametrize("wrong", [None, 3, "cache", ()], ids=str)
def test_what_is_no_cache(wrong):
    with pytest.raises(TypeError, match=f"traces: cache must be .*; got {type(wrong).__name__}"):
        traces(wrong)


def test_the_whole_result_is_no_cache():
    values = random_problem()
    with pytest.raises(TypeError, match=r"returned last .*; got tuple"):
        traces(forward(values))


def test_wrong_arguments_of_saturation():
    found = traces(forward(random_problem())[1])
    with pytest.raises(TypeError, match=r"trace must be a Trace, .*; got tuple\. Take one of them"):
        saturation(found)
    for low, high in ((0, 0.9), (0.1, 1.0), (0.9, 0.1), (float("nan"), 0.9)):
        with pytest.raises(ValueError, match="thresholds must be 0 < low < high < 1"):
            saturation(found[0], low=low, high=high)
    with pytest.raises(ValueError, match="lengths must lie between 0 and T = 5"):
        saturation(found[0], [6, 1, 1, 1])
    with pytest.raises(ValueError, match="lengths must have shape"):
        saturation(found[0], [1, 1])
    with pytest.raises(TypeError, match="lengths must be integers"):
        saturation(found[0], [1.0, 1.0, 1.0, 1.0])


def test_a_cache_is_not_modified_and_may_be_traced_again():
    values = random_problem()
    _, cache = lstm_forward(*(values[name] for name in ("x", "h0", "Wx", "Wh", "b")), lengths=[3, 0, 5, 1])
    before = [array.copy() for array in (cache.gates, cache.c, cache.h)]
    first, second = traces(cache)[0], traces(cache)[0]
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    after = (cache.gates, cache.c, cache.h)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
