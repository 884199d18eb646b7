"""Networks of layers: what they compute is what composing the functions by hand computes, whatever goes in."""

import numpy as np
import pytest
from layer_problems import (
    LENGTHS,
    NETWORKS,
    D,
    H,
    N,
    T,
    backward,
    compare,
    compose,
    forward,
    masks_on,
    network_of,
    on,
    params_of,
    random_values,
    run,
)
from problems import host, rounded, same_bits, skip_without

from lstm_xp import LSTM, Masks, State
from lstm_xp.libraries import DTYPES, to_numpy

kinds = pytest.mark.parametrize("kind", NETWORKS)
some_kinds = pytest.mark.parametrize(
    "kind", ["bidirectional, three layers, time first", "dropout, bidirectional", "projection", "all"]
)
some_lengths = pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])


def drawn_masks(network, values, seed=5):
    """Masks of the network for these values; every network has them, most of them none."""
    return forward(network, values, rng=np.random.default_rng(seed), training=False)[2].masks


def time_first(network, array):
    """A sequence in the network's layout as (T, N, .)."""
    return array if network.time_major else np.moveaxis(array, 1, 0)


def behind_lengths(network, array, value):
    """A copy of a sequence with a value behind each row's length."""
    array = array.copy()
    rows = time_first(network, array)
    for n, length in enumerate(LENGTHS):
        rows[length:, n] = value
    return array


@some_lengths
@kinds
def test_outputs_are_those_of_the_layers_one_by_one(kind, lengths):
    network = network_of(kind)
    values = random_values(network)
    masks = drawn_masks(network, values)
    for given in (None, masks):
        y, state, cache = forward(network, values, lengths=lengths, masks=given)
        expected = compose(network, values, lengths, given)
        compare({"y": y, "h_n": state.h, "c_n": state.c}, expected, values["x"], T * network.num_layers)
        assert cache.masks == (given or Masks())


@kinds
def test_no_state_is_a_state_of_zeros(kind):
    network = network_of(kind)
    values = random_values(network)
    zeros = values | {name: np.zeros_like(values[name]) for name in ("h", "c")}
    without = {name: v for name, v in values.items() if name not in ("h", "c")}
    found, expected = (host(run(network, given, lengths=LENGTHS)) for given in (without, zeros))
    for name, result in found.items():
        assert same_bits(result, expected[name]), name


@some_lengths
@kinds
def test_without_training_the_same_comes_out(kind, lengths):
    network = network_of(kind)
    values = random_values(network)
    masks = drawn_masks(network, values)
    expected = compose(network, values, lengths, masks)
    y, state, cache = forward(network, values, lengths=lengths, masks=masks, training=False)
    compare({"y": y, "h_n": state.h, "c_n": state.c}, expected, values["x"], T * network.num_layers)
    assert cache.nbytes == state.h.nbytes + state.c.nbytes
    with pytest.raises(ValueError, match=r"LSTM\.backward: the cache was made with training=False"):
        network.backward(values["dy"], cache)


@pytest.mark.parametrize("dtype", DTYPES)
@some_kinds
def test_every_library_and_dtype(lib, kind, dtype):
    """Outputs and all gradients, against the same in float64 on NumPy, of the same rounded numbers."""
    skip_without(lib, dtype)
    if lib.name in ("jax", "dask") and (kind == "all" or dtype not in ("float64", "bfloat16")):
        pytest.skip(f"{lib.name}: a few are enough, and slow")
    network = network_of(kind)
    values = random_values(network)
    masks = drawn_masks(network, values)
    exact = rounded(values, dtype)
    exact_masks = Masks(*(kind and tuple(rounded({"": mask}, dtype)[""] for mask in kind) for kind in masks))
    expected = host(run(network, exact, lengths=LENGTHS, masks=exact_masks))
    arrays = on(lib, values, dtype)
    results = run(network, arrays, lengths=LENGTHS, masks=masks_on(lib, masks, dtype))
    assert set(results) == set(expected)
    # Half types are rounded between layers, as well as from step to step.
    compare(results, expected, arrays["x"], T * network.num_layers)


@pytest.mark.parametrize("kind", ["one layer", "bidirectional, three layers, time first", "dropout of inputs"])
def test_every_engine(engine, kind):
    network = network_of(kind, engine=engine)
    values = random_values(network)
    masks = drawn_masks(network, values)
    reference = host(run(network_of(kind), values, lengths=LENGTHS, masks=masks))
    compare(run(network, values, lengths=LENGTHS, masks=masks), reference, values["x"], T * network.num_layers)


@pytest.mark.filterwarnings("error")
@kinds
def test_nothing_behind_the_lengths_is_seen(kind):
    network = network_of(kind)
    values = random_values(network)
    masks = drawn_masks(network, values)
    expected = host(run(network, values, lengths=LENGTHS, masks=masks))
    for value in (np.nan, np.inf, 1e300):
        poisoned = values | {name: behind_lengths(network, values[name], value) for name in ("x", "dy")}
        for name, result in host(run(network, poisoned, lengths=LENGTHS, masks=masks)).items():
            assert same_bits(result, expected[name]), (name, value)
    for name in ("y", "dx"):
        rows = time_first(network, expected[name])
        assert all(not np.any(rows[length:, n]) for n, length in enumerate(LENGTHS)), name


@kinds
def test_an_empty_row_hands_its_state_and_its_gradient_through(kind):
    network = network_of(kind)
    values = random_values(network)
    row = LENGTHS.index(0)
    for name in ("h", "c"):
        values[name][:, row] = [[np.nan], [np.inf]][name == "c"]
    with np.errstate(invalid="ignore"):
        results = host(run(network, values, lengths=LENGTHS))
    for name, given in (("h_n", "h"), ("c_n", "c"), ("dh", "dh"), ("dc", "dc")):
        assert np.array_equal(results[name][:, row], values[given][:, row], equal_nan=True), name
    others = [n for n in range(N) if n != row]
    assert np.all(np.isfinite(time_first(network, results["y"])[:, others]))


@kinds
def test_a_nan_never_turns_into_a_number(kind):
    """Of x at one place: in the outputs of its row from there on, as its direction goes; in no other row."""
    network = network_of(kind)
    values = random_values(network)
    row, step = 2, 1
    time_first(network, values["x"])[step, row, 0] = np.nan
    with np.errstate(invalid="ignore"):
        y, state, _ = forward(network, values)
    y = time_first(network, y)
    seen = slice(None, step + 1) if network.reverse else slice(step, None)
    assert np.all(np.isnan(y[seen, row, : network.output_size]))
    assert np.all(np.isnan(state.h[:, row]))
    assert np.all(np.isfinite(np.delete(y, row, axis=1)))
    assert np.all(np.isfinite(np.delete(state.c, row, axis=1)))


@kinds
def test_a_nan_of_a_gradient_or_a_state_stays_in_its_row(kind):
    """Of dy: in dx of its row up to there, as its direction goes; of h and c: in all of the row's outputs."""
    network = network_of(kind)
    values = random_values(network)
    row, step, R = 2, 3, network.output_size
    time_first(network, values["dy"])[step, row, :R] = np.nan
    _, _, cache = forward(network, values, lengths=[5, 4, 5, 2])
    with np.errstate(invalid="ignore"):
        found = backward(network, values, cache)
    dx = time_first(network, found["x"])
    seen = slice(step, None) if network.reverse else slice(None, step + 1)
    assert np.all(np.isnan(dx[seen, row]))
    assert np.all(np.isfinite(np.delete(dx, row, axis=1)))
    assert np.all(np.isfinite(np.delete(found["c"], row, axis=1)))
    assert np.any(np.isnan(found["0.Wx"]))
    for name in ("h", "c"):
        values = random_values(network)
        values[name][:, row] = np.nan
        with np.errstate(invalid="ignore"):
            y = time_first(network, forward(network, values)[0])
        assert np.all(np.isnan(y[:, row])), name
        assert np.all(np.isfinite(np.delete(y, row, axis=1))), name


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("rows", [0, 1, 3])
@kinds
def test_no_steps_and_no_rows(kind, rows, steps):
    network = network_of(kind)
    values = random_values(network, rows=rows, steps=steps)
    masks = drawn_masks(network, values)
    results = host(run(network, values, masks=masks))
    expected = compose(network, values, None, masks)
    compare({name: results[name] for name in expected}, expected, values["x"], network.num_layers)
    if steps == 0:
        for name, given in (("h_n", "h"), ("c_n", "c"), ("dh", "dh"), ("dc", "dc")):
            assert same_bits(results[name], values[given]), name
    if steps * rows == 0:
        assert not any(np.any(v) for name, v in results.items() if name.partition(".")[2])


@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2}, {"peepholes": True}], ids=str)
def test_the_smallest_sizes(options):
    network = LSTM(1, 1, **options)
    values = random_values_of(network, 1, 1)
    compare(run_outputs(network, values), compose(network, values), values["x"], network.num_layers)


def random_values_of(network, rows, steps):
    """`random_values` for a network of other sizes than those of the table."""
    values = random_values(network, rows=rows, steps=steps)
    values["x"] = values["x"][..., : network.input_size]
    return values


def run_outputs(network, values, **options):
    y, state, _ = forward(network, values, **options)
    return {"y": y, "h_n": state.h, "c_n": state.c}


def layouts(array):
    """The same numbers, laid out otherwise."""
    wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]))
    wide[..., ::2] = array
    read_only = array.copy()
    read_only.setflags(write=False)
    return {"Fortran": np.asfortranarray(array), "strided": wide[..., ::2], "reversed": array[::-1].copy()[::-1],
            "read-only": read_only}  # fmt: skip


@pytest.mark.parametrize("layout", ["Fortran", "strided", "reversed", "read-only"])
@some_kinds
def test_arrays_of_any_layout(kind, layout):
    network = network_of(kind)
    values = random_values(network)
    masks = drawn_masks(network, values)
    expected = host(run(network, values, lengths=LENGTHS, masks=masks))
    odd = {name: layouts(value)[layout] for name, value in values.items()}
    odd_masks = Masks(*(kind and tuple(layouts(mask)[layout] for mask in kind) for kind in masks))
    compare(run(network, odd, lengths=LENGTHS, masks=odd_masks), expected, values["x"], T * network.num_layers)


@kinds
def test_nothing_of_the_callers_is_modified(kind):
    network = network_of(kind)
    values = random_values(network)
    masks = drawn_masks(network, values)
    everything = values | {f"{k}{j}": mask for k, kind in enumerate(masks) for j, mask in enumerate(kind or ())}
    before = {name: value.copy() for name, value in everything.items()}
    lengths = np.asarray(LENGTHS)
    run(network, values, lengths=lengths, masks=masks)
    for name, value in everything.items():
        assert same_bits(value, before[name]), name
    assert lengths.tolist() == LENGTHS


@kinds
def test_two_forwards_before_one_backward(kind):
    """And backward twice: a cache is not used up, and shares nothing with another one's."""
    network = network_of(kind)
    first, second = random_values(network, 1), random_values(network, 2)
    expected = host(run(network, first, lengths=LENGTHS))
    y, state, cache = forward(network, first, lengths=LENGTHS)
    forward(network, second, lengths=LENGTHS)
    backward(network, second, cache)
    found = {"y": y, "h_n": state.h, "c_n": state.c}
    found |= {f"d{name}": v for name, v in backward(network, first, cache).items()}
    for name, result in found.items():
        assert same_bits(np.array(result), expected[name]), name


@kinds
def test_dx_can_be_left_out(kind):
    network = network_of(kind)
    for steps in (T, 0):
        arrays = random_values(network, steps=steps)
        _, _, cache = forward(network, arrays, masks=drawn_masks(network, arrays))
        full, without = backward(network, arrays, cache), backward(network, arrays, cache, need_dx=False)
        assert without.pop("x") is None
        assert full.pop("x") is not None
        assert full.keys() == without.keys()
        assert all(same_bits(full[name], v) for name, v in without.items())


def test_settings_may_be_numbers_of_numpy():
    network = LSTM(np.int64(D), np.int32(H), np.uint8(2), dropout=np.float32(0.5), clip=np.int64(2), forget_bias=1)
    assert network == LSTM(D, H, 2, dropout=0.5, clip=2.0)
    values = (network.input_size, network.num_layers, network.dropout, network.clip, network.forget_bias)
    assert [type(value) for value in values] == [int, int, float, float, float]
    assert repr(network) == repr(LSTM(D, H, 2, dropout=0.5, clip=2.0))


def test_gradients_have_names():
    network = network_of("two layers")
    values = random_values(network)
    gradients = network.backward(values["dy"], forward(network, values)[2])
    for part, name in zip(gradients, ("dx", "dstate", "dparams"), strict=True):
        assert part is getattr(gradients, name)


@kinds
def test_gates_of_every_layer_are_in_the_cache(kind):
    network = network_of(kind)
    _, _, cache = forward(network, random_values(network))
    assert len(cache.directions) == network.num_layers * network.num_directions
    for each in cache.directions:
        assert each.i.shape == each.f.shape == each.o.shape == each.g.shape == (N, T, H)


def test_training_keeps_gates_c_and_h_and_nothing_else_of_their_order():
    network = LSTM(D, H, 3, bidirectional=True)
    values = {name: value.astype(np.float32) for name, value in random_values(network, steps=50).items()}
    _, _, cache = forward(network, values)
    assert cache.nbytes <= 6 * N * 50 * H * 4 * (4 + 1) + 6 * 4 * N * H * 4
    for p, given in zip(cache.params, params_of(network, values), strict=True):
        assert all(a is b for a, b in zip(p, given, strict=True))


def test_an_output_is_the_callers_own():
    """y can be written to before the next call: nothing that was handed out is looked at again by `forward`."""
    network = network_of("two layers")
    values = random_values(network)
    expected = forward(network, values)[0].copy()
    y, state, _ = forward(network, values)
    for array in (y, state.h, state.c):
        array[...] = np.nan
    assert same_bits(forward(network, values)[0], expected)


def test_a_state_goes_in_as_it_came_out(lib):
    network = network_of("bidirectional")
    arrays = on(lib, random_values(network))
    y, state, _ = forward(network, arrays)
    assert isinstance(state, State)
    again = forward(network, arrays | {"h": state.h, "c": state.c})[0]
    assert not np.array_equal(to_numpy(again), to_numpy(y))
    plain_tuple = network.forward(params_of(network, arrays), arrays["x"], (state.h, state.c))[0]
    assert np.array_equal(to_numpy(again), to_numpy(plain_tuple))
