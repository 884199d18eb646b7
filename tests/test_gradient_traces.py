"""gradient_traces: against PyTorch's autograd through a loop of steps, and against the gradients of the whole."""

import numpy as np
import pytest
from layer_problems import LENGTHS, NETWORKS, D, H, N, T, forward, network_of, params_of, random_values
from problems import COTANGENTS, ORDERS, given, host, orders, random_problem, run, same_bits, settled, skip_without
from problems import backward as sequence_backward
from problems import forward as sequence_forward

from lstm_xp import LSTM, GradientTrace, State, checks, gradient_traces, lstm_step_forward, variant_cells
from lstm_xp.engines import array_api
from lstm_xp.libraries import to_numpy
from lstm_xp.testing import assert_close

GATES = ("da_i", "da_f", "da_o", "da_g")
NAMES = (*GATES, "dc", "dh")


def traced(arrays, cache):
    """`gradient_traces` of one sequence, for the cotangents by name."""
    dh, dh_n, dc_n = (arrays[name] for name in COTANGENTS)
    (found,) = gradient_traces(dh, cache, dstate=(dh_n, dc_n))
    return GradientTrace(**settled(found._asdict()))


def joined(trace):
    """da (N, T, 4H), float64."""
    return np.concatenate([to_numpy(getattr(trace, name)).astype(np.float64) for name in GATES], axis=-1)


def compare(trace, expected, like, steps=T):
    """With float64 results, rounded to the dtype of `like` first: traces of half types are float32."""
    for name, value in expected.items():
        assert np.any(value), name
        found = checks.namespace(like).astype(getattr(trace, name), like.dtype, copy=False)
        assert_close(found, value, like=like, kind="gradient", steps=steps, name=name)


# Against autograd


def plain_by_torch(torch, values, lengths=None, reverse=False):
    """What `gradient_traces` should give for a sequence: the equations written out for tensors, row by row."""
    tensors = {name: torch.asarray(value) for name, value in values.items()}
    rows, steps, _ = values["x"].shape
    units = values["Wh"].shape[0]
    expected = {name: np.zeros((rows, steps, units)) for name in NAMES}
    for n in range(rows):
        length, h, c = steps if lengths is None else lengths[n], tensors["h0"][n], tensors["c0"][n]
        times, kept, loss = range(length)[::-1] if reverse else range(length), {}, 0.0
        for t in times:
            a = tensors["x"][n, t] @ tensors["Wx"] + h @ tensors["Wh"] + tensors["b"]
            parts = [part.requires_grad_() for part in torch.chunk(a, 4)]
            i, f, o = (torch.sigmoid(part) for part in parts[:3])
            c = (f * c + i * torch.tanh(parts[3])).requires_grad_()
            h = (o * torch.tanh(c)).requires_grad_()
            loss = loss + torch.sum(h * tensors["dh"][n, t])
            kept[t] = dict(zip(NAMES, (*parts, c, h), strict=True))
            for tensor in kept[t].values():
                tensor.retain_grad()
        if length:
            (loss + torch.sum(h * tensors["dh_n"][n]) + torch.sum(c * tensors["dc_n"][n])).backward()
        for t in times:
            for name, tensor in kept[t].items():
                expected[name][n, t] = tensor.grad.numpy()
    return expected


@orders
def test_a_sequence_against_autograd(library, lib, order):
    values = random_problem()
    expected = plain_by_torch(library("torch").xp, values, **order)
    arrays = given(lib, values)
    _, cache = sequence_forward(arrays, **order)
    compare(traced(arrays, cache), expected, arrays["x"])


@orders
def test_whatever_engine_ran(library, engine, order):
    values = random_problem(seed=1)
    expected = plain_by_torch(library("torch").xp, values, **order)
    compare(traced(values, sequence_forward(values, engine=engine, **order)[1]), expected, values["x"])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("order", [ORDERS["forward"], ORDERS["reverse, lengths"]], ids=["forward", "reverse, lengths"])
def test_other_dtypes_against_autograd_in_float64(library, lib, dtype, order):
    skip_without(lib, dtype)
    values = random_problem(seed=2)
    expected = plain_by_torch(library("torch").xp, values, **order)
    arrays = given(lib, values, dtype)
    found = traced(arrays, sequence_forward(arrays, **order)[1])
    compare(found, expected, arrays["x"])
    assert {str(getattr(found, name).dtype).rpartition(".")[2] for name in NAMES} == {"float32"}


def network_by_torch(torch, network, values, lengths, masks):
    """What `gradient_traces` should give for a network, by autograd through single steps of its cells, row by row."""
    tensors = {name: torch.asarray(value) for name, value in values.items()}
    params, R = params_of(network, tensors), network.output_size
    x, dy = (tensors[name].swapaxes(0, 1) if network.time_major else tensors[name] for name in ("x", "dy"))
    masks = type(masks)(*(kind and tuple(map(torch.asarray, kind)) for kind in masks))
    kept, loss = {}, 0.0
    for layer in range(network.num_layers):
        for mask in masks.on_input(layer):
            x = x * mask
        outputs = []
        for k in range(layer * network.num_directions, (layer + 1) * network.num_directions):
            p, backwards = params[k], network.reverse or k % network.num_directions == 1
            rows = [[torch.zeros(R, dtype=torch.float64)] * T for _ in range(N)]
            for n in range(N):
                length, h, c = lengths[n], tensors["h"][k, n : n + 1], tensors["c"][k, n : n + 1]
                for t in reversed(range(length)) if backwards else range(length):
                    a = variant_cells.input_part(x[n : n + 1, t], p, torch, array_api.product).requires_grad_()
                    drawn = masks.of(k)
                    drawn = drawn._replace(
                        recurrent=drawn.recurrent if drawn.recurrent is None else drawn.recurrent[n : n + 1],
                        **{
                            name: mask[n : n + 1, t]
                            for name, mask in drawn._asdict().items()
                            if name != "recurrent" and mask is not None
                        },
                    )
                    drawn = variant_cells.expectations(network.cell, drawn)
                    h, c, *_ = variant_cells.step(a, h, c, p, network.cell, drawn, torch)
                    kept[k, n, t] = a, c.requires_grad_(), h.requires_grad_()
                    for tensor in kept[k, n, t]:
                        tensor.retain_grad()
                    rows[n][t] = h[0]
                if length:
                    loss = loss + torch.sum(h * tensors["dh"][k, n]) + torch.sum(c * tensors["dc"][k, n])
            outputs.append(torch.stack([torch.stack(row) for row in rows]))
        x = torch.cat(outputs, dim=-1)
    (loss + torch.sum(x * dy)).backward()
    shapes = {"da": 4 * H, "dc": H, "dh": R}
    expected = [{name: np.zeros((N, T, size)) for name, size in shapes.items()} for _ in params]
    for (k, n, t), found in kept.items():
        for name, tensor in zip(shapes, found, strict=True):
            # None: what a later step did not take from this state, and the loss neither.
            expected[k][name][n, t] = 0 if tensor.grad is None else tensor.grad.numpy()
    return expected


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_networks_against_autograd(library, kind, lengths):
    """Each layer and direction of each kind of network, with its masks."""
    network = network_of(kind)
    values = random_values(network, seed=4)
    _, _, cache = forward(network, values, lengths=lengths, rng=np.random.default_rng(5))
    expected = network_by_torch(library("torch").xp, network, values, lengths or [T] * N, cache.masks)
    found = gradient_traces(values["dy"], cache, dstate=State(values["dh"], values["dc"]))
    assert len(found) == len(expected) == len(cache.directions)
    for trace, wanted in zip(found, expected, strict=True):
        da = dict(zip(GATES, np.split(wanted.pop("da"), 4, axis=-1), strict=True))
        if network.coupled:
            assert not np.any(da.pop("da_f"))
            assert not np.any(trace.da_f)
        compare(trace, da | wanted, values["x"], steps=T * network.num_layers)


@pytest.mark.parametrize("kind", ["two layers", "bidirectional, three layers, time first", "all"])
def test_networks_on_every_library(lib, kind):
    """What NumPy finds, which is compared with autograd."""
    network = LSTM(D, H, **NETWORKS[kind])
    values = random_values(network, seed=6)

    def found(arrays):
        _, _, cache = forward(network, arrays, lengths=LENGTHS)
        results = gradient_traces(arrays["dy"], cache, dstate=(arrays["dh"], None))
        return settled({f"{k} {name}": getattr(trace, name) for k, trace in enumerate(results) for name in NAMES})

    arrays, expected = given(lib, values), found(values)
    for name, result in found(arrays).items():
        assert np.any(expected[name]), name
        assert_close(result, expected[name], like=arrays["x"], kind="gradient", steps=3 * T, name=name)


# Against the gradients of the whole


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@orders
def test_the_gradients_of_the_whole_are_their_sums_and_products(lib, order, dtype):
    skip_without(lib, dtype)
    arrays = given(lib, random_problem(seed=7), dtype)
    h, cache = sequence_forward(arrays, **order)
    found, whole = traced(arrays, cache), sequence_backward(arrays, cache)
    values = {name: value.astype(np.float64) for name, value in host({**arrays, "h": h, "f": cache.f}).items()}
    da, dc, (rows, steps, _) = joined(found), to_numpy(found.dc), values["x"].shape
    prev_h, dh0, dc0 = np.zeros_like(values["h"]), values["dh_n"].copy(), values["dc_n"].copy()  # of rows without steps
    for n, length in enumerate(order.get("lengths", [steps] * rows)):
        times = range(length)[::-1] if order.get("reverse") else range(length)
        for t, before in zip(times[1:], times, strict=False):
            prev_h[n, t] = values["h"][n, before]
        for t in times[:1]:
            prev_h[n, t] = values["h0"][n]
            dh0[n], dc0[n] = da[n, t] @ values["Wh"].T, dc[n, t] * values["f"][n, t]
    expected = {"x": da @ values["Wx"].T, "Wx": np.einsum("ntd,nta->da", values["x"], da), "b": np.sum(da, axis=(0, 1))}
    expected |= {"Wh": np.einsum("nth,nta->ha", prev_h, da), "h0": dh0, "c0": dc0}
    for name, value in expected.items():
        assert_close(whole[f"d{name}"], value, like=arrays["x"], kind="gradient", steps=steps, name=name)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
@pytest.mark.parametrize("kind", ["bidirectional, three layers, time first", "all", "zoneout", "peepholes"])
def test_the_bias_of_every_direction(kind, lengths):
    network = network_of(kind)
    values = random_values(network, seed=8)
    _, _, cache = forward(network, values, lengths=lengths, rng=np.random.default_rng(9))
    _, _, dparams = network.backward(values["dy"], cache)
    for trace, whole in zip(gradient_traces(values["dy"], cache), dparams, strict=True):
        assert_close(np.sum(joined(trace), axis=(0, 1)), whole.b, kind="gradient", steps=T, name="b")


def test_dh_and_dc_are_those_of_the_state_that_the_rest_starts_from():
    """But for what reaches h_t from its own output, and c_t by way of h_t."""
    values = random_problem(seed=10)
    _, cache = sequence_forward(values)
    (found,) = gradient_traces(values["dh"], cache, dstate=(values["dh_n"], values["dc_n"]))
    h, c = values["h0"], values["c0"]
    for t in range(T - 1):
        h, c, step = lstm_step_forward(values["x"][:, t], h, c, values["Wx"], values["Wh"], values["b"])
        rest = {**values, "x": values["x"][:, t + 1 :], "dh": values["dh"][:, t + 1 :], "h0": h, "c0": c}
        later = run(rest)
        assert_close(found.dh[:, t], values["dh"][:, t] + later["dh0"], kind="gradient", steps=T)
        by_h = found.dh[:, t] * step.o * (1 - np.tanh(c) ** 2)
        assert_close(found.dc[:, t], later["dc0"] + by_h, kind="gradient", steps=T)


# What goes in and comes out


@pytest.mark.parametrize("kind", ["one layer", "layer norm", "bidirectional"])
@pytest.mark.parametrize("reverse", [False, True])
def test_padding_is_unseen_and_zero(kind, reverse):
    network = LSTM(D, H, **{**NETWORKS[kind], "reverse": reverse and kind != "bidirectional"})
    values = random_values(network, seed=11)
    behind = np.arange(T)[None, :] >= np.array(LENGTHS)[:, None]
    results = []
    for junk in (0.0, np.nan, np.inf):
        filled = {**values, "x": values["x"].copy(), "dy": values["dy"].copy()}
        filled["x"][behind] = filled["dy"][behind] = junk
        _, _, cache = forward(network, filled, lengths=LENGTHS)
        results.append(gradient_traces(filled["dy"], cache, dstate=(values["dh"], values["dc"])))
    for trace in zip(*results, strict=True):
        for name in NAMES:
            first, *others = (getattr(each, name) for each in trace)
            assert not np.any(first[behind]), name
            assert all(same_bits(np.ascontiguousarray(first), np.ascontiguousarray(v)) for v in others), name
        assert trace[0].lengths.tolist() == LENGTHS


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("sizes", [(0, T), (N, 0)], ids=["no rows", "no steps"])
@pytest.mark.parametrize("options", [{}, {"layer_norm": True, "proj_size": 2}], ids=["plain", "variant"])
def test_nothing_to_trace(options, sizes, dtype):
    network = LSTM(D, H, num_layers=2, **options)
    y, _, cache = network.forward(network.init(dtype=dtype), np.zeros((*sizes, D), dtype))
    for trace in gradient_traces(y, cache):
        assert {getattr(trace, name).shape for name in NAMES[:-1]} == {(*sizes, H)}
        assert trace.dh.shape == (*sizes, network.output_size)
        assert {getattr(trace, name).dtype.name for name in NAMES} == {"float32"}


@orders
def test_none_means_zeros_and_nothing_is_modified(order):
    values = random_problem(seed=12)
    _, cache = sequence_forward(values, **order)
    held = {**values, "gates": cache.gates, "c": cache.c, "h": cache.h}
    before = {name: array.copy() for name, array in held.items()}
    whole = gradient_traces(values["dh"], cache, dstate=(values["dh_n"], values["dc_n"]))[0]
    parts = [
        gradient_traces(values["dh"], cache)[0],
        gradient_traces(None, cache, dstate=(values["dh_n"], None))[0],
        gradient_traces(None, cache, dstate=(None, values["dc_n"]))[0],
    ]
    for part in parts:
        assert all(np.any(getattr(part, name)) for name in NAMES[:-1])
    compare(whole, {name: sum(getattr(part, name) for part in parts) for name in NAMES}, values["x"])
    assert all(np.array_equal(array, before[name]) for name, array in held.items())


# Errors


@pytest.mark.parametrize("wrong", [None, 3, ()], ids=str)
def test_what_is_no_cache(wrong):
    with pytest.raises(TypeError, match=f"gradient_traces: cache must be .*; got {type(wrong).__name__}"):
        gradient_traces(np.zeros((N, T, H)), wrong)


@pytest.mark.parametrize(
    "network", [None, LSTM(D, 2), LSTM(D, 2, peepholes=True)], ids=["sequence", "plain", "variant"]
)
def test_wrong_arguments(network):
    values = random_problem()

    def cache_of(training):
        if network is None:
            return sequence_forward(values, training=training)[1]
        return network.forward(network.init(dtype="float64"), values["x"], training=training)[2]

    with pytest.raises(ValueError, match=r"gradient_traces: the cache was made with training=False"):
        gradient_traces(values["dh"], cache_of(False))
    cache = cache_of(True)
    with pytest.raises(
        ValueError, match=r"gradient_traces: at least one of dy, dh of dstate, dc of dstate must be given"
    ):
        gradient_traces(None, cache)
    with pytest.raises(ValueError, match=r"gradient_traces: dy must have shape \(N, T, .*; got \(4, 4, 2\)"):
        gradient_traces(values["dh"][:, 1:], cache)
    with pytest.raises(TypeError, match=r"gradient_traces: all arrays must share one dtype"):
        gradient_traces(values["dh"].astype("float32"), cache)
    for wrong in (3, (values["dh_n"],)):
        with pytest.raises(TypeError, match=r"gradient_traces: dstate must be a pair \(h, c\); got"):
            gradient_traces(values["dh"], cache, dstate=wrong)
    with pytest.raises(ValueError, match=r"gradient_traces: .*h of dstate must have shape"):
        gradient_traces(None, cache, dstate=(np.zeros((9, 9, 9)), None))
