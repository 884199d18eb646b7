"""The cell variants: outputs of a scalar oracle, outside witnesses, every library and dtype, padding, NaN, extremes."""

from itertools import product

import numpy as np
import pytest
from problems import given, host, orders, rounded, same_bits, skip_without
from problems import random_problem as plain_problem
from problems import run as run_plain
from variant_oracle import CONSTANTS, FUNCTIONS, function
from variant_problems import (  # fmt: skip
    COTANGENTS,
    MASKS,
    OUTPUTS,
    PLAIN,
    RATES,
    VARIANTS,
    WIDE,
    Variant,
    backward,
    compare,
    forward,
    outputs_of,
    random_problem,
    run,
)

from lstm_xp import LSTM, engines
from lstm_xp.activations import KINDS, activation
from lstm_xp.testing import DERIVATIVE_LIMITS, assert_close
from lstm_xp.variant_cells import CellMasks
from lstm_xp.variants import is_plain

named = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
wide = pytest.mark.parametrize("variant", [VARIANTS[name] for name in WIDE], ids=WIDE)
LENGTHS = [3, 0, 5, 1]
BEHIND = np.arange(5)[None, :] >= np.array(LENGTHS)[:, None]


@pytest.mark.variants
@orders
@named
def test_outputs_are_those_of_the_papers(variant, order, engine):
    values = random_problem(variant)
    expected = outputs_of(variant, values, **order)
    results = {name: run(variant, values, engine=engine, **order)[name] for name in OUTPUTS}
    compare(results, expected, values["x"], steps=5)


@named
def test_variants_differ_from_the_plain_cell_and_from_each_other(variant):
    """What a variant adds is felt: without it, the outputs of the same problem are others."""
    values = random_problem(variant)
    h, _ = forward(variant, values)
    for field, default in Variant._field_defaults.items():
        if getattr(variant, field) == default or field in ("projection", "bias"):
            continue
        without = variant._replace(**{field: default})
        fewer = {name: value for name, value in values.items() if name != field}
        if field == "layer_norm":
            fewer = {name: value for name, value in fewer.items() if not name.startswith(("gain", "bias_c"))}
        other, _ = forward(without, fewer)
        assert np.max(np.abs(other - h)) > 1e-3, field


@pytest.mark.variants
@orders
def test_the_plain_cell_is_that_of_the_engines(order, engine):
    values = plain_problem()
    expected = run_plain(values, engine="array_api", **order)
    results = run(Variant(), {**values, "dy": values["dh"]}, engine=engine, **order)
    compare(results, expected, values["x"], steps=5)


def test_what_is_plain():
    values = random_problem(Variant())
    _, cache = forward(Variant(), values)
    assert is_plain(cache.params, cache.cell, CellMasks())
    for name, variant in VARIANTS.items():
        _, cache = forward(variant, random_problem(variant))
        assert is_plain(cache.params, cache.cell, cache.masks) == (name in ("plain", "no bias")), name


@wide
@pytest.mark.parametrize("order", [{}, {"lengths": LENGTHS, "reverse": True}], ids=["forward", "reverse, lengths"])
def test_every_library(lib, variant, order):
    """On a problem of ordinary condition: a norm of few cells that are nearly alike multiplies what was rounded."""
    values = random_problem(variant, H=16, P=7, seed=5)
    expected = run(variant, values, **order)
    compare(run(variant, given(lib, values), **order), expected, lib.asarray(values["x"]), steps=5)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@named
@pytest.mark.without("dask", "numpy-readonly")
def test_every_dtype(lib, variant, dtype):
    """Within the table: products and sums of half types in float32, rounded once."""
    skip_without(lib, dtype)
    values = rounded(random_problem(variant, N=8, T=3, D=5, H=16, P=7), dtype)
    expected = run(variant, values)
    compare(run(variant, given(lib, values, dtype)), expected, lib.asarray(values["x"], dtype), steps=3)


def test_half_types_keep_the_cell_state_in_float32():
    """A hundred small additions that float16 would swallow one by one."""
    T = 100
    values = {"x": np.zeros((1, T, 1)), "Wx": np.zeros((1, 8)), "Wh": np.zeros((2, 8)), "c0": np.full((1, 2), 8.0)}
    values |= {"h0": np.zeros((1, 2)), "b": np.array([0, 0, 50, 50, 0, 0, 0.006, 0.006])}
    values = rounded(values, "float16")
    variant = Variant(clip=100.0)
    expected = outputs_of(variant, values)
    _, cache = forward(variant, {name: value.astype("float16") for name, value in values.items()})
    assert cache.c.dtype == np.float32
    assert_close(cache.c_n, expected["c_n"], like=np.float16([0]), name="c_n")
    assert np.float16(8.0) + np.float16(0.003) == np.float16(8.0)


@pytest.mark.variants
@named
@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_no_steps_and_no_rows(variant, dtype, engine):
    """T = 0 hands states and gradients through, as copies; N = 0 gives empty outputs and zero gradients."""
    for N, T in ((4, 0), (0, 5), (0, 0)):
        values = random_problem(variant, N=N, T=T)
        for order in ({}, {"reverse": True}, {"lengths": [0] * N}, {"lengths": [0] * N, "reverse": True}):
            arrays = {name: value.astype(dtype) for name, value in values.items()}
            results = run(variant, arrays, engine=engine, **order)
            for name, result in results.items():
                of = {"h": "dy"}.get(name, name[1:] if name.startswith("d") else name.replace("_n", "0"))
                assert result.shape == arrays[of].shape, name
                assert result.dtype == dtype, name
            for result, argument in (("h_n", "h0"), ("c_n", "c0"), ("dh0", "dh_n"), ("dc0", "dc_n")):
                assert same_bits(results[result], arrays[argument])
                assert not np.shares_memory(results[result], arrays[argument])
            for name in results.keys() - {"h_n", "c_n", "dh0", "dc0"}:
                assert not np.any(results[name]), name


@pytest.mark.variants
@named
def test_padding_is_not_seen(variant, engine):
    """What lies behind the lengths changes nothing, be it NaN; h and dx are zero there."""
    values = random_problem(variant, seed=5)
    for reverse in (False, True):
        found = []
        for junk in (0.0, np.nan, np.inf, 1e300):
            filled = {name: value.copy() for name, value in values.items()}
            for name in {"x", "dy", "zoneout_h", "zoneout_c"} & filled.keys():
                filled[name][BEHIND] = junk
            found.append(run(variant, filled, engine=engine, lengths=LENGTHS, reverse=reverse))
        for other in found[1:]:
            assert all(same_bits(other[name], found[0][name]) for name in found[0])
        assert not np.any(found[0]["h"][BEHIND])
        assert not np.any(found[0]["dx"][BEHIND])


@pytest.mark.variants
@named
def test_empty_rows_hand_everything_through(variant, engine):
    """A row of length 0 returns its states and their gradients, whatever they hold, and touches nothing else."""
    values = random_problem(variant, seed=6)
    for reverse in (False, True):
        clean = run(variant, values, engine=engine, lengths=LENGTHS, reverse=reverse)
        for junk in (np.nan, -np.inf, 1e300):
            filled = {name: value.copy() for name, value in values.items()}
            for name in ("h0", "c0", "dh_n", "dc_n"):
                filled[name][1] = junk
            results = run(variant, filled, engine=engine, lengths=LENGTHS, reverse=reverse)
            handed = {"h_n": "h0", "c_n": "c0", "dh0": "dh_n", "dc0": "dc_n"}
            for result, argument in handed.items():
                assert same_bits(results[result][1], filled[argument][1]), result
            for name in results.keys() - handed.keys():
                assert same_bits(results[name], clean[name]), f"{name} sees the states of an empty row"


@pytest.mark.variants
@named
def test_not_a_number_stays(variant, engine):
    """A NaN in one row comes out of that row from there on, and of no other row."""
    variant = variant._replace(recurrent=False)  # a dropped element hides its NaN from the other units
    values = {name: value for name, value in random_problem(variant, seed=7).items() if not name.startswith("zone")}
    clean, row, t = run(variant, values, engine=engine), 2, 1
    others = [0, 1, 3]
    for name, start in (("x", t), ("h0", 0)):
        spoiled = {**values, name: values[name].copy()}
        spoiled[name][(row, t) if name == "x" else row] = np.nan
        results = run(variant, spoiled, engine=engine)
        for result in OUTPUTS:
            expected = np.zeros(results[result].shape, bool)
            expected[(row, slice(start, None)) if result == "h" else row] = True
            assert np.array_equal(np.isnan(results[result]), expected), f"{name}: {result}"
        for result in ("dx", "dh0", "dc0"):
            assert np.all(np.isnan(results[result][row])), f"{name}: {result}"
            assert same_bits(results[result][others], clean[result][others]), f"{name}: {result}"
        for result in results.keys() - {*OUTPUTS, "dx", "dh0", "dc0"}:
            gradient = results[result]
            if variant.coupled and result == "dpeepholes":  # those of f are not used
                gradient = gradient[[0, 2]]
            elif variant.coupled and gradient.shape[-1] == 4 * 6:
                gradient = np.delete(gradient, slice(6, 12), axis=-1)
            assert np.all(np.isnan(gradient)), f"{name}: {result}"


@pytest.mark.variants
@pytest.mark.parametrize("name", FUNCTIONS)
def test_not_a_number_passes_every_activation(name, engine):
    """In any of the three places: the row of the NaN is NaN, forwards and backwards."""
    lack = engines.load(engine).lacks(Variant(activations=(name, "Tanh", "Tanh")).cell)
    if lack:
        pytest.skip(f"{engine}: {lack}")
    for place, clip in product(range(3), (None, 1.0)):
        kinds = list(PLAIN)
        kinds[place] = name
        variant = Variant(activations=tuple(kinds), clip=clip)
        values = random_problem(variant, seed=8)
        values["x"][2, 3] = np.nan
        results = run(variant, values, engine=engine)
        assert np.all(np.isnan(results["h"][2, 3:]))
        assert np.all(np.isfinite(results["h"][:2]))
        for result in ("dx", "dh0", "dc0"):
            assert np.all(np.isnan(results[result][2])), result
        assert np.all(np.isnan(results["dWx"]))


@pytest.mark.variants
@named
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_saturation_is_exact_and_silent(variant, dtype, engine):
    """Inputs of a million, or 6e4 for float16: everything is finite, nothing warns; gates are at their ends."""
    values = random_problem(variant, seed=9)
    big = {**values, "x": values["x"] / np.abs(values["x"]) * (6e4 if dtype == "float16" else 1e6)}
    arrays = {name: value.astype(dtype) for name, value in big.items()}
    h, cache = forward(variant, arrays, lengths=LENGTHS, engine=engine)
    results = {"h": h, "h_n": cache.h_n, "c_n": cache.c_n, **backward(arrays, cache)}
    assert all(np.all(np.isfinite(result)) for result in results.values())
    if variant.activations[0] == "Sigmoid" and not (variant.layer_norm or variant.clip):
        for gate in (cache.i, cache.f, cache.o):
            assert set(np.unique(gate)) <= {0.0, 1.0}


@pytest.mark.variants
@named
def test_nothing_is_modified(variant, engine):
    values = random_problem(variant, seed=3)
    for order in ({}, {"lengths": LENGTHS, "reverse": True}):
        arrays = {name: value.copy() for name, value in values.items()}
        for array in arrays.values():
            array.setflags(write=False)
        h, cache = forward(variant, arrays, engine=engine, **order)
        held = arrays | {"h": h}
        held |= {f"its {name}": part for name, part in cache._asdict().items() if isinstance(part, np.ndarray)}
        before = host(held)
        first = backward(arrays, cache)
        second = backward(arrays, cache)
        assert all(same_bits(first[name], second[name]) for name in first)
        assert all(same_bits(held[name], before[name]) for name in held)


@pytest.mark.variants
@named
def test_without_training_the_same_outputs_and_nothing_kept(variant, engine):
    values = random_problem(variant)
    for order in ({}, {"lengths": LENGTHS, "reverse": True}):
        h, cache = forward(variant, values, engine=engine, **order)
        other, short = forward(variant, values, keep=False, engine=engine, **order)
        for one, two in ((h, other), (cache.h_n, short.h_n), (cache.c_n, short.c_n)):
            assert same_bits(np.ascontiguousarray(one), np.ascontiguousarray(two))
        assert short.nbytes == cache.h_n.nbytes + cache.c_n.nbytes
        assert short.x is None
        with pytest.raises(ValueError, match="training=True"):
            _ = short.i


def test_bytes_of_a_cache():
    """c, z and gates, and the cell states before zoneout where there are others; N T H numbers each, z and gates 4."""
    N, T, H = 4, 5, 6
    for variant, per_cell in ((Variant(), 9), (Variant(zoneout_c="rate"), 10)):
        _, cache = forward(variant, random_problem(variant))
        assert cache.nbytes == 8 * (N * T * H * per_cell + 2 * N * H)


@pytest.mark.variants
@orders
def test_gates_are_in_the_order_of_the_caller(order, engine):
    """o * tanh(c) is h at every step, and the gates are zero behind the lengths."""
    variant = Variant(clip=50.0)
    values = random_problem(variant)
    h, cache = forward(variant, values, engine=engine, **order)
    assert cache.i.shape == (4, 5, 6)
    for row, length in enumerate(order.get("lengths", [5] * 4)):
        c = values["c0"][row]
        for t in reversed(range(length)) if order.get("reverse") else range(length):
            c = cache.f[row, t] * c + cache.i[row, t] * cache.g[row, t]
            assert_close(cache.o[row, t] * np.tanh(c), h[row, t], steps=5)
        assert not np.any([getattr(cache, gate)[row, length:] for gate in "ifog"])


@pytest.mark.variants
def test_clip_bounds_the_gates_alone(engine):
    """The gates lie within F(+-clip), their gradients end where they were clipped; the cell state may grow."""
    variant = Variant(clip=0.8)
    values = random_problem(variant)
    values["x"] *= 5
    _, cache = forward(variant, values, engine=engine)
    low, high = 1 / (1 + np.exp(0.8)), 1 / (1 + np.exp(-0.8))
    for gate in (cache.i, cache.f, cache.o):
        assert_close(np.min(gate), np.float64(low))
        assert_close(np.max(gate), np.float64(high))
    assert_close(np.max(np.abs(cache.g)), np.float64(np.tanh(0.8)))
    values["b"] = np.full_like(values["b"], 100.0)
    values["c0"] = np.full_like(values["c0"], 9.0)
    results = run(variant, values, engine=engine)
    assert np.max(results["c_n"]) > 0.8
    for name in ("dx", "dWx", "dWh", "db", "dh0"):
        assert not np.any(results[name]), name
    assert np.all(results["dc0"])


def test_coupled_gates_do_not_use_the_blocks_of_the_forget_gate():
    """Whatever stands in them, nothing changes, and their gradients are zero."""
    variant = VARIANTS["coupled, peepholes"]
    values = random_problem(variant)
    other = {name: value.copy() for name, value in values.items()}
    for name in ("Wx", "Wh", "b"):
        other[name][..., 6:12] += 1
    other["peepholes"][1] += 1
    results, others = run(variant, values), run(variant, other)
    assert all(same_bits(results[name], others[name]) for name in results)
    for name in ("dWx", "dWh", "db"):
        assert not np.any(results[name][..., 6:12])
    assert not np.any(results["dpeepholes"][1])
    _, cache = forward(variant, values)
    assert np.array_equal(cache.f, 1 - cache.i)


@pytest.mark.variants
def test_zoneout_without_masks_is_the_expectation(engine):
    """One step: the mean of the states over all masks, each by its probability."""
    variant, units = Variant(zoneout_h="rate", zoneout_c="rate"), 2
    values = random_problem(variant, T=1, H=units)
    _, expected = forward(variant, values, engine=engine)
    totals = {"h_n": 0.0, "c_n": 0.0}
    for kept in product((0.0, 1.0), repeat=units):
        masks = {name: np.broadcast_to(kept, (4, 1, units)) for name in RATES}
        _, cache = forward(variant, values | masks, engine=engine)
        for name, rate in zip(totals, RATES.values(), strict=True):
            chance = np.prod([rate if k else 1 - rate for k in kept])
            totals[name] = totals[name] + chance * getattr(cache, name)
    for name, total in totals.items():
        assert_close(total, getattr(expected, name))


@pytest.mark.variants
def test_zoneout_masks_keep_the_old_state(engine):
    """All ones: nothing changes. All zeros: the plain cell."""
    variant = Variant(zoneout_h="mask", zoneout_c="mask")
    values = random_problem(variant)
    for keep in (0.0, 1.0):
        masks = {name: np.full_like(values[name], keep) for name in RATES}
        h, cache = forward(variant, values | masks, engine=engine)
        if keep:
            assert same_bits(cache.h_n, values["h0"])
            assert same_bits(cache.c_n, values["c0"])
        else:
            plain, _ = forward(Variant(), {name: value for name, value in values.items() if name not in MASKS})
            assert_close(h, plain)


@pytest.mark.variants
def test_rows_and_normalisation(engine):
    """A row of a hundredfold, and shifted, input weights gives the same: what is normalised has no scale."""
    variant = Variant(layer_norm=True)
    values = random_problem(variant)
    h, _ = forward(variant, values, engine=engine)
    scaled, _ = forward(variant, {**values, "Wx": 1e4 * values["Wx"] + 3.0, "Wh": values["Wh"] - 2.0}, engine=engine)
    assert np.max(np.abs(scaled - h)) < 1e-4  # but for EPSILON, beside a variance of about one


@pytest.mark.variants
def test_torch_projects_alike(library, engine):
    """torch.nn.LSTM with proj_size and autograd."""
    torch = library("torch").xp
    from torch.nn import LSTM as TorchLSTM

    variant = Variant(projection=True)
    values = random_problem(variant)
    module = TorchLSTM(3, 6, proj_size=2, batch_first=True, dtype=torch.float64)

    def rows(columns):
        i, f, o, g = np.split(columns, 4, axis=-1)
        return torch.asarray(np.concatenate([i, f, g, o], axis=-1).T.copy())

    def columns(tensor):
        i, f, g, o = np.split(tensor.numpy().T, 4, axis=-1)
        return np.concatenate([i, f, o, g], axis=-1)

    with torch.no_grad():
        module.bias_hh_l0.zero_()
        module.weight_hr_l0.copy_(torch.asarray(values["Wp"].T.copy()))
        for tensor, name in ((module.weight_ih_l0, "Wx"), (module.weight_hh_l0, "Wh"), (module.bias_ih_l0, "b")):
            tensor.copy_(rows(values[name]))
    x, h0, c0 = (torch.asarray(values[name]).requires_grad_() for name in ("x", "h0", "c0"))
    y, (h_n, c_n) = module(x, (h0[None], c0[None]))
    loss = sum(torch.sum(torch.asarray(values[u]) * v) for u, v in zip(COTANGENTS, (y, h_n[0], c_n[0]), strict=True))
    loss.backward()
    expected = {"h": y, "h_n": h_n[0], "c_n": c_n[0]}
    expected = {name: tensor.detach().numpy() for name, tensor in expected.items()}
    expected |= {"dx": x.grad.numpy(), "dh0": h0.grad.numpy(), "dc0": c0.grad.numpy()}
    for name in ("weight_ih", "weight_hh", "bias_ih"):
        short = {"weight_ih": "dWx", "weight_hh": "dWh", "bias_ih": "db"}[name]
        expected[short] = columns(getattr(module, f"{name}_l0").grad)
    expected["dWp"] = module.weight_hr_l0.grad.numpy().T
    results = run(variant, values, engine=engine)
    assert set(results) == set(expected)
    compare(results, expected, values["x"], steps=5)


@pytest.mark.variants
def test_published_coupled_gates_with_peepholes(engine):
    """TensorFlow Lite's values of three steps, to the six digits that it asks for (lstm_test.cc, Apache-2.0).

    There i = 1 - f. As 1 - sigmoid(z) = sigmoid(-z), this is f = 1 - i with the weights of f, negated, as those of i.
    """
    f = [[-0.55291498, -0.42866567], [0.13056988, -0.3633365], [-0.22755712, 0.28253698], [0.24407166, 0.33826375]]
    g = [[-0.49770179, -0.27711356], [-0.09624726, 0.05100781], [0.04717243, 0.48944736], [-0.38535351, -0.17212132]]
    o = [[0.10725588, -0.02335852], [-0.55932593, -0.09426838], [-0.44257352, 0.54939759], [0.01533556, 0.42751634]]
    f_h = [
        [-0.13832897, -0.0515101, -0.2359007, -0.16661474],
        [-0.14340827, 0.36986142, 0.23414481, 0.55899],
        [0.10798943, -0.41174671, 0.17751795, -0.34484994],
        [-0.35874045, -0.11352962, 0.27268326, 0.54058349],
    ]
    g_h = [
        [0.54066205, -0.32668582, -0.43562764, -0.56094903],
        [0.42957711, 0.01841056, -0.32764608, -0.33027974],
        [-0.10826075, 0.20675004, 0.19069612, -0.03026325],
        [-0.54532051, 0.33003211, 0.44901288, 0.21193194],
    ]
    o_h = [
        [0.41613156, 0.42610586, -0.16495961, -0.5663873],
        [0.30579174, -0.05115908, -0.33941799, 0.23364776],
        [0.11178309, 0.09481031, -0.26424935, 0.46261835],
        [0.50248802, 0.26114327, -0.43736315, 0.33149987],
    ]
    p_f, p_o = [0.47485286, -0.51955009, -0.24458408, 0.31544167], [-0.17135078, 0.82760304, 0.85573703, -0.77109635]
    expected = [
        [-0.36444446, -0.00352185, 0.12886585, -0.05163646],
        [-0.42312205, -0.01218222, 0.24201041, -0.08124574],
        [-0.358325, -0.04621704, 0.21641694, -0.06471302],
    ]
    values = {"x": np.array([[[2.0, 3.0], [3.0, 4.0], [1.0, 1.0]]])}
    for name, (of_f, of_o, of_g) in (("Wx", (f, o, g)), ("Wh", (f_h, o_h, g_h))):
        of_f, of_o, of_g = (np.array(part).T for part in (of_f, of_o, of_g))
        values[name] = np.concatenate([-of_f, np.full_like(of_f, 7.0), of_o, of_g], axis=1)
    values["b"] = np.repeat([-1.0, 7.0, 0.0, 0.0], 4)
    values["peepholes"] = np.array([[-p for p in p_f], [7.0] * 4, p_o])
    h, _ = forward(Variant(coupled=True, peepholes=True), values, engine=engine)
    assert np.max(np.abs(h[0] - expected)) < 1e-5


# Activations. Points on both sides of every kink and threshold, none on one.
POINTS = np.array([-30.0, -2.6, -1.3, -0.4, -1e-3, 1e-3, 0.3, 0.7, 1.1, 2.4, 2.6, 30.0])
GIVEN = {
    "Affine": (0.7, 0.2), "LeakyRelu": (0.2,), "ThresholdedRelu": (0.5,), "ScaledTanh": (1.7, 0.6),
    "HardSigmoid": (0.3, 0.4), "Elu": (0.6,),
}  # fmt: skip
kinds = pytest.mark.parametrize("name", FUNCTIONS)


@kinds
def test_activations_are_those_of_the_operator(name):
    """Value and slope, with the defaults and with constants; the scalar functions are written from ONNX's text."""
    assert set(KINDS) == set(FUNCTIONS)
    for given_kind in (name, (name, *GIVEN.get(name, ()))):
        kind, scalar = activation("test", given_kind), function(given_kind)
        values = kind(POINTS, np)
        assert_close(values, np.array([scalar(z) for z in POINTS], dtype=float), steps=POINTS.size)
        step, slopes = 1e-4, kind.slope(POINTS, values, np)
        for z, slope in zip(POINTS, slopes, strict=True):
            near, far = (scalar(z + k * step) - scalar(z - k * step) for k in (1, 2))
            assert abs(slope - (8 * near - far) / (12 * step)) < DERIVATIVE_LIMITS["difference"], z


@kinds
def test_activations_carry_nan_and_extremes(name):
    """NaN in, NaN out; at the largest finite numbers no overflow where the value itself is finite, and no warning."""
    kind = activation("test", name)
    assert np.all(np.isnan(kind(np.array([np.nan, np.nan]), np)))
    for dtype in (np.float64, np.float32):
        most = np.finfo(dtype).max
        z = np.array([-most, -1e6, -0.0, 0.0, 1e6, most], dtype=dtype)
        values = kind(z, np)
        slopes = kind.slope(z, values, np)
        assert values.dtype == slopes.dtype == dtype
        assert np.all(np.isfinite(values))
        assert np.all(np.isfinite(slopes))


@kinds
def test_slopes_at_kinks_lie_between_those_beside_them(name):
    kind = activation("test", name)
    for z in (0.0, kind.alpha or 0.0, -2.5, 2.5):
        around = np.array([z - 1e-9, z, z + 1e-9])
        left, at, right = kind.slope(around, kind(around, np), np)
        assert min(left, right) - 1e-8 <= at <= max(left, right) + 1e-8


def test_a_constant_left_out_is_the_default_in_its_place():
    assert activation("test", ("HardSigmoid", None, 0.3)) == ("HardSigmoid", 0.2, 0.3)
    assert activation("test", ("ScaledTanh", 2)) == ("ScaledTanh", 2.0, 1.0)
    assert activation("test", ["Tanh", None, None]) == ("Tanh", None, None)
    for name in KINDS:
        constants = (*CONSTANTS.get(name, ()), None, None)[:2]
        assert activation("test", name) == (name, *constants)
        assert activation("test", tuple(activation("test", name))) == activation("test", name)


WRONG = {
    "unknown": ("Swish", ValueError, r"activation must be one of Sigmoid, .*; got 'Swish'"),
    "case": ("tanh", ValueError, "activation must be one of .*; got 'tanh'"),
    "number": (3, TypeError, r"an activation must be a name, or \(name, alpha, beta\); got 3"),
    "none": ((), TypeError, r"an activation must be a name, or \(name, alpha, beta\); got \(\)"),
    "too many": (("Elu", 1, 2, 3), TypeError, r"an activation must be .*; got \('Elu', 1, 2, 3\)"),
    "list for a name": (([], 1), ValueError, r"activation must be one of .*; got \[\]"),
    "no alpha": (("Tanh", 1.0), ValueError, "activation Tanh has no alpha; got 1.0"),
    "no beta": (("Elu", 1.0, 2.0), ValueError, "activation Elu has no beta; got 2.0"),
    "word": (("Elu", "x"), ValueError, "alpha of activation Elu must be a finite number; got 'x'"),
    "infinite": (("Elu", np.inf), ValueError, "alpha of activation Elu must be a finite number; got inf"),
}


@pytest.mark.parametrize(("given_kind", "error", "message"), WRONG.values(), ids=WRONG)
def test_errors_of_activations(given_kind, error, message):
    with pytest.raises(error, match=f"^LSTM: {message}"):
        LSTM(2, 3, activations=(given_kind, "Tanh", "Tanh"))
