"""The gradients of networks are their derivatives: of x, of the states, and of every parameter of every direction."""

from dataclasses import asdict, replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_problems import (
    LENGTHS,
    NETWORKS,
    D,
    T,
    backward,
    compare,
    compose,
    forward,
    network_of,
    random_values,
)

from lstm_xp import LSTM, Masks, State
from lstm_xp.activations import KINDS
from lstm_xp.masks import rates as rates_of
from lstm_xp.testing import DERIVATIVE_LIMITS, check_gradients

kinds = pytest.mark.parametrize("kind", NETWORKS)
COTANGENTS = ("dy", "dh", "dc")


def masks_of(network, values, seed=3):
    """Masks of the network for these values."""
    return forward(network, values, rng=np.random.default_rng(seed), training=False)[2].masks


def arguments_of(values):
    return {name: value for name, value in values.items() if name not in COTANGENTS}


def complex_where_one_is(arrays):
    """All as complex128 where one is: the functions take arrays of one dtype."""
    if not any(array.dtype.kind == "c" for array in arrays.values()):
        return arrays
    return {name: array.astype(complex) for name, array in arrays.items()}


def complex_masks(masks, arrays):
    if arrays["x"].dtype.kind != "c":
        return masks
    return Masks(*(kind and tuple(mask.astype(complex) for mask in kind) for kind in masks))


def outputs_of(network, arrays, lengths, masks):
    """y, h_n, c_n and the cache, real or complex."""
    arrays = complex_where_one_is(arrays)
    y, state, cache = forward(network, arrays, lengths=lengths, masks=masks and complex_masks(masks, arrays))
    return (y, *state), cache


RANDOM = [kind for kind in NETWORKS if any(rates_of(network_of(kind)))]
CASES = [*product(NETWORKS, [False]), *product(RANDOM, [True])]


@pytest.mark.parametrize(("kind", "random"), CASES, ids=[f"{kind}{', masks' * random}" for kind, random in CASES])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
def test_gradients_are_derivatives(kind, lengths, random):
    network = network_of(kind)
    values = random_values(network, seed=1)
    masks = masks_of(network, values) if random else None
    errors = check_gradients(
        lambda **arrays: outputs_of(network, arrays, lengths, masks),
        lambda cotangents, cache: backward(network, dict(zip(COTANGENTS, cotangents, strict=True)), cache),
        arguments_of(values),
        method="complex",
        directions=1,
    )
    assert set(errors) == set(arguments_of(values))


@kinds
def test_backward_is_linear_and_none_means_zeros(kind):
    network = network_of(kind)
    values = random_values(network, seed=2)
    _, _, cache = forward(network, values, lengths=LENGTHS, masks=masks_of(network, values))
    whole = backward(network, values, cache)
    parts = []
    for name in COTANGENTS:
        dy = values["dy"] if name == "dy" else None
        dstate = State(*(values[part] if part == name else None for part in ("dh", "dc")))
        dx, dstate, dparams = network.backward(dy, cache, dstate=None if name == "dy" else dstate)
        part = {"x": dx, "h": dstate.h, "c": dstate.c}
        for k, direction in enumerate(dparams):
            part |= {f"{k}.{name}": v for name, v in direction._asdict().items() if v is not None}
        parts.append(part)
    assert all(set(part) == set(whole) for part in parts)
    sums = {f"d{name}": sum(part[name] for part in parts) for name in whole}
    compare({f"d{name}": v for name, v in whole.items()}, sums, values["x"], T * network.num_layers)
    # Each kind of cotangent reaches x and the last layer by itself, or the sum would prove nothing.
    for part in parts:
        reached = {name for name, v in part.items() if np.any(v)}
        top = network.num_layers - 1
        assert {"x", f"{top * network.num_directions}.Wx"} <= reached


@kinds
def test_no_gradient_is_zero_that_should_not_be(kind):
    network = network_of(kind)
    values = random_values(network, seed=3)
    _, _, cache = forward(network, values, lengths=LENGTHS)
    for name, gradient in backward(network, values, cache).items():
        assert gradient.shape == values[name].shape, name
        assert np.all(np.isfinite(gradient)), name
        assert np.any(gradient), name


functions = st.sampled_from([*KINDS, ("HardSigmoid", 0.3, 0.4), ("LeakyRelu", 0.2)])
switch, rates = st.booleans(), st.sampled_from([0.0, 0.0, 0.3])


@st.composite
def searches(draw):
    """Any network, sizes from the smallest up, perhaps lengths, perhaps masks."""
    layers, both = draw(st.integers(1, 3)), draw(switch)
    variant = draw(switch)
    settings = {"bias": draw(switch), "time_major": draw(switch), "input_dropout": draw(rates)}
    settings |= {"recurrent_dropout": draw(rates), "dropout": draw(rates) if layers > 1 else 0.0}
    if variant:
        settings |= {name: draw(switch) for name in ("peepholes", "coupled", "layer_norm")}
        settings |= {"zoneout_h": draw(rates), "zoneout_c": draw(rates), "clip": draw(st.sampled_from([None, 0.7]))}
        settings |= {"proj_size": draw(st.integers(0, 3)), "activations": draw(st.tuples(*3 * [functions]))}
    network = LSTM(
        draw(st.integers(1, D)),
        draw(st.integers(1, 4)),
        layers,
        bidirectional=both,
        reverse=not both and draw(switch),
        **settings,
    )
    rows, steps = draw(st.integers(0, 3)), draw(st.integers(0, 4))
    values = random_values(network, draw(st.integers(0, 2**32 - 1)), rows, steps)
    values["x"] = values["x"][..., : network.input_size]
    lengths = draw(st.none() | st.lists(st.integers(0, steps), min_size=rows, max_size=rows))
    masks = masks_of(network, values) if draw(switch) else None
    return network, values, lengths, masks


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(search=searches())
def test_any_network(search):
    """Whatever the network: outputs of the layers one by one, and the derivative along one direction of everything."""
    network, values, lengths, masks = search
    if network.plain and not network.recurrent_dropout:  # complex numbers are for the reference engine
        network = replace(network, engine="array_api")
    (y, h, c), cache = outputs_of(network, arguments_of(values), lengths, masks)
    expected = compose(network, values, lengths, masks)
    worst = max(1.0, *(np.max(np.abs(part), initial=0) for part in expected.values()))
    for name, result in (("y", y), ("h_n", h), ("c_n", c)):
        assert result.shape == expected[name].shape
        assert np.max(np.abs(result - expected[name]), initial=0) <= DERIVATIVE_LIMITS["complex"] * worst, name

    gradients, rng = backward(network, values, cache), np.random.default_rng(0)
    arguments = arguments_of(values)
    assert set(gradients) == set(arguments)
    along = {name: rng.standard_normal(value.shape) for name, value in arguments.items()}
    moved = {name: value + 1e-100j * along[name] for name, value in arguments.items()}
    outputs, _ = outputs_of(network, moved, lengths, masks)
    terms = [values[name] * part.imag / 1e-100 for name, part in zip(COTANGENTS, outputs, strict=True)]
    claims = [gradient * along[name] for name, gradient in gradients.items()]
    measured, claimed = (sum(np.sum(part) for part in parts) for parts in (terms, claims))
    size = sum(np.sum(np.abs(part)) for part in (*terms, *claims))
    assert abs(claimed - measured) <= DERIVATIVE_LIMITS["complex"] * size


def test_the_search_reaches_what_it_should():
    """Every switch of a network takes part in some of the examples, with and without a bias."""
    seen = set()

    @settings(max_examples=200, deadline=None, derandomize=True, database=None)
    @given(search=searches())
    def look(search):
        network, _, lengths, masks = search
        seen.update(name for name, value in asdict(network).items() if value)
        seen.update(product((network.bidirectional,), (lengths is None,), (masks is None,)))

    look()
    assert {"reverse", "bidirectional", "time_major", "peepholes", "coupled", "layer_norm", "proj_size", "clip"} <= seen
    assert {"zoneout_h", "zoneout_c", "dropout", "input_dropout", "recurrent_dropout", "bias"} <= seen
    assert set(product((False, True), repeat=3)) <= seen
