"""What is random in a network: its first parameters, and the masks of dropout and zoneout."""

import numpy as np
import pytest
from layer_problems import (
    LENGTHS,
    NETWORKS,
    D,
    H,
    N,
    T,
    compare,
    forward,
    masks_on,
    network_of,
    on,
    random_values,
    run,
)
from problems import host, same_bits, skip_without

from lstm_xp import LSTM, Masks, checks, parameters
from lstm_xp import masks as random_masks
from lstm_xp.libraries import DTYPES, to_numpy

kinds = pytest.mark.parametrize("kind", NETWORKS)
RANDOM = [kind for kind in NETWORKS if any(random_masks.rates(network_of(kind)))]
random_kinds = pytest.mark.parametrize("kind", RANDOM)


def masks_by(network, values, seed, **options):
    return forward(network, values, rng=np.random.default_rng(seed), training=False, **options)[2].masks


def flat(masks):
    """All masks, by name."""
    return {f"{kind}[{k}]": mask for kind, given in masks._asdict().items() for k, mask in enumerate(given or ())}


# The first parameters


@pytest.mark.parametrize("dtype", DTYPES)
def test_parameters_in_every_library(lib, dtype):
    skip_without(lib, dtype)
    network = LSTM(D, H, 2, bidirectional=True, proj_size=2, peepholes=True, layer_norm=True)
    params = network.init(lib.xp, dtype, lib.device, seed=7)
    expected = network.init(np, "float64", seed=7)
    parameters.check_parameters("test", network, params)
    for direction, reference in zip(params, expected, strict=True):
        for name, array in direction._asdict().items():
            assert checks.dtype_name(array.dtype) == dtype
            assert to_numpy(array).shape == to_numpy(reference._asdict()[name]).shape
            assert same_bits(to_numpy(lib.asarray(reference._asdict()[name], dtype)), to_numpy(array)), name


@kinds
def test_a_seed_means_the_same_numbers(kind):
    network = network_of(kind)
    first, again, other = (network.init(seed=seed) for seed in (1, 1, 2))
    for p, q, r in zip(first, again, other, strict=True):
        for name, array in p._asdict().items():
            if array is not None:
                assert same_bits(array, getattr(q, name)), name
        assert not np.array_equal(p.Wx, r.Wx)
        assert not np.array_equal(p.Wh, r.Wh)


def test_no_two_weights_are_alike():
    """Every layer, direction and matrix draws numbers of its own."""
    network = LSTM(5, 4, 3, bidirectional=True, proj_size=2, peepholes=True)
    weights = [w.ravel() for p in network.init(dtype="float64") for w in (p.Wx, p.Wh, p.Wp, p.peepholes)]
    everything = np.concatenate(weights)
    assert np.unique(everything).size == everything.size


def test_the_distribution_of_weights_and_biases():
    network = LSTM(300, 100, forget_bias=1.5, layer_norm=True)
    (p,) = network.init(dtype="float64", seed=3)
    bound = 0.1
    for name in ("Wx", "Wh"):
        weights = getattr(p, name)
        assert np.max(np.abs(weights)) <= bound
        # The mean of m uniform numbers has a standard deviation of bound / sqrt(3 m); five of them.
        assert abs(np.mean(weights)) <= 5 * bound / (3 * weights.size) ** 0.5
        assert abs(np.mean(weights**2) / (bound**2 / 3) - 1) <= 5 * (0.8 / weights.size) ** 0.5
    for k, value in enumerate((0.0, 1.5, 0.0, 0.0)):
        assert np.all(p.b[100 * k : 100 * (k + 1)] == value)
    assert np.all(p.gain_x == 1)
    assert np.all(p.gain_h == 1)
    assert np.all(p.gain_c == 1)
    assert np.all(p.bias_c == 0)


def test_numpys_own_dtypes_name_a_dtype():
    assert LSTM(2, 3).init(dtype=np.float64)[0].Wx.dtype == np.float64
    assert LSTM(2, 3).init(dtype=np.dtype("float16"))[0].b.dtype == np.float16


# Masks


@random_kinds
def test_a_generator_means_the_same_masks(kind):
    network = network_of(kind)
    values = random_values(network)
    first, again, other = (flat(masks_by(network, values, seed)) for seed in (1, 1, 2))
    assert first.keys() == again.keys() == other.keys()
    assert all(same_bits(first[name], again[name]) for name in first)
    assert not all(np.array_equal(first[name], other[name]) for name in first)


@kinds
def test_no_masks_without_masks_or_generator(kind):
    network = network_of(kind)
    values = random_values(network)
    assert forward(network, values)[2].masks == Masks()


@kinds
def test_there_are_masks_of_what_has_a_rate_and_of_nothing_else(kind):
    network = network_of(kind)
    masks = masks_by(network, random_values(network), 1)
    for name, rate, given in zip(Masks._fields, random_masks.rates(network), masks, strict=True):
        assert (given is not None) == (rate > 0), name


@random_kinds
def test_masks_have_their_shapes_and_their_two_values(kind):
    network = network_of(kind)
    masks = masks_by(network, random_values(network), 1)
    K, L, width, R = (
        network.num_layers * network.num_directions,
        network.num_layers,
        network.num_directions,
        network.output_size,
    )
    shapes = {
        "inputs": [(N, D)] + [(N, width * R)] * (L - 1),
        "between": [(N, T, width * R)] * (L - 1),
        "recurrent": [(N, R)] * K,
        "zoneout_h": [(N, T, R)] * K,
        "zoneout_c": [(N, T, H)] * K,
    }
    for name, given in masks._asdict().items():
        if given is not None:
            assert [mask.shape for mask in given] == shapes[name], name
            rate = getattr(random_masks.rates(network), name)
            values = {0.0, 1.0} if name.startswith("zoneout") else {0.0, 1 / (1 - rate)}
            assert set(np.unique(np.concatenate([mask.ravel() for mask in given]))) == values, name


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_masks_have_their_rate(rate):
    """How many are dropped, or keep their old value: binomial, within five standard deviations."""
    names = ("dropout", "input_dropout", "recurrent_dropout", "zoneout_h", "zoneout_c")
    network = LSTM(40, 50, 3, **dict.fromkeys(names, rate))
    values = random_values(network, rows=60, steps=20)
    values["x"] = np.zeros((60, 20, 40))
    for name, given in masks_by(network, values, 11)._asdict().items():
        for mask in given:
            hit = np.sum(mask == 1) if name.startswith("zoneout") else np.sum(mask == 0)
            assert abs(hit - rate * mask.size) <= 5 * (mask.size * rate * (1 - rate)) ** 0.5, name


def test_masks_of_layers_and_directions_differ():
    network = LSTM(
        20,
        20,
        3,
        bidirectional=True,
        dropout=0.5,
        input_dropout=0.5,
        recurrent_dropout=0.5,
        zoneout_h=0.5,
        zoneout_c=0.5,
    )
    values = random_values(network, rows=5, steps=6)
    values["x"] = np.zeros((5, 6, 20))
    for name, given in masks_by(network, values, 1)._asdict().items():
        for k, mask in enumerate(given):
            assert not any(mask.shape == other.shape and np.array_equal(mask, other) for other in given[:k]), name


@random_kinds
def test_a_run_is_repeated_by_its_masks(kind):
    """The same bits: outputs and gradients."""
    network = network_of(kind)
    values = random_values(network)
    drawn = host(run(network, values, lengths=LENGTHS, rng=np.random.default_rng(4)))
    masks = masks_by(network, values, 4)
    repeated = host(run(network, values, lengths=LENGTHS, masks=masks))
    without = host(run(network, values, lengths=LENGTHS))
    assert all(same_bits(drawn[name], repeated[name]) for name in drawn)
    assert not np.array_equal(drawn["y"], without["y"])


@pytest.mark.parametrize("kind", ["dropout, bidirectional", "zoneout"])
def test_masks_go_to_another_library(lib, kind):
    """A generator draws the same there, and the masks of one run serve another library."""
    network = network_of(kind)
    values = random_values(network)
    masks = masks_by(network, values, 4)
    expected = host(run(network, values, lengths=LENGTHS, masks=masks))
    arrays = on(lib, values)
    there = flat(masks_by(network, arrays, 4))
    assert all(same_bits(to_numpy(there[name]), mask) for name, mask in flat(masks).items())
    results = run(network, arrays, lengths=LENGTHS, masks=masks_on(lib, masks))
    compare(results, expected, arrays["x"], T * network.num_layers)


def test_dropout_of_the_input_is_the_same_at_every_step():
    """What is dropped at one step is dropped at all: it can be changed without being seen."""
    network = LSTM(D, H, input_dropout=0.5)
    values = random_values(network)
    masks = masks_by(network, values, 2)
    (mask,) = masks.inputs
    assert 0 < np.mean(mask == 0) < 1
    y = forward(network, values, masks=masks)[0]
    changed = values | {"x": np.where(mask[:, None, :] == 0, 99.0, values["x"])}
    assert same_bits(forward(network, changed, masks=masks)[0], y)


def test_the_mean_of_dropout_is_no_dropout():
    """Inverted dropout: over many masks, what enters a layer is on average what it is without."""
    network = LSTM(D, H, 2, dropout=0.4, input_dropout=0.3)
    values = random_values(network, rows=4000, steps=2)
    masks = masks_by(network, values, 3)
    for mask in (*masks.inputs, *masks.between):
        deviation = np.std(mask) / mask.size**0.5
        assert abs(np.mean(mask) - 1) <= 5 * deviation


def test_a_rate_of_zero_draws_nothing():
    """Adding another kind of dropout does not change the masks of those before it in `Masks`."""
    values = random_values(LSTM(D, H, 2))
    one = masks_by(LSTM(D, H, 2, input_dropout=0.3), values, 1)
    two = masks_by(LSTM(D, H, 2, input_dropout=0.3, recurrent_dropout=0.3), values, 1)
    assert all(same_bits(a, b) for a, b in zip(one.inputs, two.inputs, strict=True))
    generator = np.random.default_rng(1)
    before = generator.bit_generator.state
    forward(LSTM(D, H, 2), values, rng=generator)
    assert generator.bit_generator.state == before
