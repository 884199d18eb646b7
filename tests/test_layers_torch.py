"""torch.nn.LSTM in float64 as the witness of whole networks: outputs, states, and the gradients of everything."""

from itertools import product

import numpy as np
import pytest
from layer_problems import D, H, N, P, T, compare, run

from lstm_xp import LSTM, Direction


@pytest.fixture
def torch(library):
    return library("torch").xp


SIZES = [*product((1, 2, 3), (False, True), (0, P))]
NAMES = [f"{layers}{' bidirectional' * both}{' projection' * bool(size)}" for layers, both, size in SIZES]
networks = pytest.mark.parametrize(("layers", "both", "size"), SIZES, ids=NAMES)
PACKED = [3, 1, 5, 2]  # torch packs no empty rows


def turned(v):
    """Gate blocks i, f, o, g of the last axis as i, f, g, o; or back."""
    i, f, third, fourth = np.split(v, 4, axis=-1)
    return np.concatenate([i, f, fourth, third], axis=-1)


def directions_of(module, of):
    """What `of` finds for each parameter of the module, laid out as parameters are here; b twice: each is db."""
    suffixes = [f"_l{k}{end}" for k in range(module.num_layers) for end in ("", "_reverse")[: 1 + module.bidirectional]]
    found = []
    for suffix in suffixes:
        get = lambda name, suffix=suffix: of(getattr(module, name + suffix)).numpy().copy()  # noqa: E731
        weights = [turned(get(name).T) for name in ("weight_ih", "weight_hh")]
        biases = [turned(get(name)) for name in ("bias_ih", "bias_hh")] if module.bias else None
        found.append((*weights, biases, get("weight_hr").T if module.proj_size else None))
    return found


def witness(torch, module, values, lengths, given_states):
    """y, states, gradients by name."""
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    leaves = {name: torch.asarray(values[name]).clone().requires_grad_() for name in ("x", "h", "c")}
    x, first = leaves["x"], module.batch_first
    if lengths is not None:
        x = pack_padded_sequence(x, torch.asarray(lengths), batch_first=first, enforce_sorted=False)
    y, state = module(x, (leaves["h"], leaves["c"]) if given_states else None)
    if lengths is not None:
        y, _ = pad_packed_sequence(y, batch_first=first, total_length=T)
    results = {"y": y, "h_n": state[0], "c_n": state[1]}
    cotangents = zip(("dy", "dh", "dc"), results.values(), strict=True)
    sum(torch.sum(torch.asarray(values[name]) * result) for name, result in cotangents).backward()
    found = {name: result.detach().numpy() for name, result in results.items()}
    found |= {f"d{name}": leaf.grad.numpy() for name, leaf in leaves.items() if leaf.grad is not None}
    for k, (Wx, Wh, biases, Wp) in enumerate(directions_of(module, lambda v: v.grad)):
        found |= {f"d{k}.Wx": Wx, f"d{k}.Wh": Wh}
        found |= {} if biases is None else {f"d{k}.b": biases[0]}
        found |= {} if Wp is None else {f"d{k}.Wp": Wp}
    return found


def agree(torch, network, lengths=None, given_states=True, engine="auto"):
    torch.manual_seed(0)
    module = torch.nn.LSTM(
        D, H, network.num_layers, bias=network.bias, batch_first=not network.time_major,
        bidirectional=network.bidirectional, proj_size=network.proj_size, dtype=torch.float64,
    )  # fmt: skip
    params = []
    for Wx, Wh, biases, Wp in directions_of(module, lambda v: v.detach()):
        params.append(Direction(Wx, Wh, None if biases is None else sum(biases), Wp))
    rng = np.random.default_rng(1)
    K, R = network.num_layers * network.num_directions, network.output_size
    order = (T, N) if network.time_major else (N, T)
    shapes = {"x": (*order, D), "h": (K, N, R), "c": (K, N, H)}
    shapes |= {"dy": (*order, network.num_directions * R), "dh": (K, N, R), "dc": (K, N, H)}
    values = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    expected = witness(torch, module, values, lengths, given_states)
    arrays = {f"{k}.{name}": v for k, p in enumerate(params) for name, v in p._asdict().items() if v is not None}
    arrays |= {name: values[name] for name in values if given_states or name not in ("h", "c")}
    results = run(network, arrays, lengths=lengths)
    if not given_states:
        results = {name: v for name, v in results.items() if name not in ("dh", "dc")}
    assert set(results) == set(expected)
    assert all(np.any(v) for v in results.values())
    compare(results, expected, values["x"], steps=T * network.num_layers)


@networks
@pytest.mark.parametrize("lengths", [None, PACKED], ids=["full", "packed"])
def test_networks(torch, layers, both, size, lengths):
    agree(torch, LSTM(D, H, layers, bidirectional=both, proj_size=size), lengths)


@networks
def test_time_first(torch, layers, both, size):
    agree(torch, LSTM(D, H, layers, bidirectional=both, proj_size=size, time_major=True), PACKED)


@networks
def test_without_bias_from_zeros(torch, layers, both, size):
    agree(torch, LSTM(D, H, layers, bidirectional=both, proj_size=size, bias=False), given_states=False)


@pytest.mark.parametrize("layers", [1, 3])
def test_each_engine(torch, engine, layers):
    agree(torch, LSTM(D, H, layers, bidirectional=True, engine=engine), PACKED)
