"""PyTorch as an outside witness: its own LSTM, its packed sequences, and its gradients."""

import numpy as np
import pytest
from problems import GRADIENTS, ORDERS, OUTPUTS, compare, given, orders, random_problem, run

from lstm_xp import lstm_forward, lstm_step_forward
from lstm_xp.libraries import to_numpy
from lstm_xp.testing import assert_close

ARGUMENTS = ("x", "h0", "Wx", "Wh", "b", "c0")


@pytest.fixture
def torch(library):
    return library("torch").xp


def rows_of_torch(columns):
    """Columns i, f, o, g as the rows i, f, g, o of torch."""
    i, f, o, g = np.split(columns, 4, axis=-1)
    return np.concatenate([i, f, g, o], axis=-1).T


def columns_from_torch(rows):
    i, f, g, o = np.split(rows.T, 4, axis=-1)
    return np.concatenate([i, f, o, g], axis=-1)


def torch_lstm(torch, values, lengths=None, reverse=False):
    """torch.nn.LSTM and autograd: outputs and gradients by name, NumPy."""
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    _, T, D = values["x"].shape
    H = values["h0"].shape[1]
    module = torch.nn.LSTM(D, H, batch_first=True, bidirectional=reverse, dtype=torch.float64)
    suffix = "_l0_reverse" if reverse else "_l0"
    weights = {name: getattr(module, name + suffix) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    new = {"weight_ih": "Wx", "weight_hh": "Wh", "bias_ih": "b"}
    with torch.no_grad():
        weights["bias_hh"].zero_()
        for name, of in new.items():
            weights[name].copy_(torch.asarray(rows_of_torch(values[of])))
    leaves = {name: torch.asarray(values[name].copy()).requires_grad_() for name in ("x", "h0", "c0")}
    # Both directions of torch's module want a state; only the last one counts here.
    states = [torch.stack([leaves[name]] * (1 + reverse)) for name in ("h0", "c0")]
    x = leaves["x"]
    if lengths is not None:
        x = pack_padded_sequence(x, torch.asarray(lengths), batch_first=True, enforce_sorted=False)
    h, (h_n, c_n) = module(x, tuple(states))
    if lengths is not None:
        h, _ = pad_packed_sequence(h, batch_first=True, total_length=T)
    results = {"h": h[..., -H:], "h_n": h_n[-1], "c_n": c_n[-1]}
    loss = sum(torch.sum(torch.asarray(values[f"d{name}"]) * result) for name, result in results.items())
    loss.backward()
    found = {name: result.detach().numpy() for name, result in results.items()}
    found |= {f"d{name}": leaf.grad.numpy() for name, leaf in leaves.items()}
    return found | {f"d{of}": columns_from_torch(weights[name].grad.numpy()) for name, of in new.items()}


LENGTHS = [3, 1, 5, 2]  # torch packs no empty rows


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "packed"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("seed", [0, 1])
def test_torch_nn_lstm(torch, lib, engine, lengths, reverse, seed):
    if lib.name in ("dask", "jax"):
        pytest.skip(f"{lib.name}: compared with the loop of steps, which is compared with torch")
    values = random_problem(seed=seed)
    expected = torch_lstm(torch, values, lengths, reverse)
    assert set(expected) == {*OUTPUTS, *GRADIENTS}
    arrays = given(lib, values)
    compare(run(arrays, engine=engine, lengths=lengths, reverse=reverse), expected, arrays["x"], steps=5)


def test_a_longer_sequence(torch, engine, library):
    values = random_problem(N=3, T=120, D=7, H=11)
    lengths = [120, 1, 57]
    expected = torch_lstm(torch, values, lengths)
    arrays = given(library("numpy"), values)
    compare(run(arrays, engine=engine, lengths=lengths), expected, arrays["x"], steps=120)


@orders
def test_autograd_through_the_forward_function(library, order):
    """Tensors that require gradients are traced through `lstm_forward`: autograd finds what `lstm_backward` says."""
    lib, values = library("torch"), random_problem()
    arrays = given(lib, values)
    expected = run(arrays, **order)
    leaves = {name: array.clone().requires_grad_() if name in ARGUMENTS else array for name, array in arrays.items()}
    x, h0, Wx, Wh, b, c0 = (leaves[name] for name in ARGUMENTS)
    for training in (True, False):
        h, cache = lstm_forward(x, h0, Wx, Wh, b, c0=c0, training=training, **order)
        results = {"h": h, "h_n": cache.h_n, "c_n": cache.c_n}
        loss = sum(lib.xp.sum(leaves[f"d{name}"] * result) for name, result in results.items())
        gradients = lib.xp.autograd.grad(loss, [leaves[name] for name in ARGUMENTS])
        for name, gradient in zip(ARGUMENTS, gradients, strict=True):
            assert_close(gradient, expected[f"d{name}"], kind="gradient", steps=5, name=f"d{name}")


def test_autograd_through_a_step(library):
    lib, values = library("torch"), random_problem()
    values["x"] = values["x"][:, 0]
    names = ("x", "h0", "c0", "Wx", "Wh", "b")
    arrays = given(lib, values)
    leaves = [arrays[name].requires_grad_() for name in names]
    h, c, cache = lstm_step_forward(*leaves)
    loss = lib.xp.sum(h * arrays["dh_n"]) + lib.xp.sum(c * arrays["dc_n"])
    found = lib.xp.autograd.grad(loss, leaves)
    from lstm_xp import lstm_step_backward

    for gradient, ours in zip(found, lstm_step_backward(arrays["dh_n"], arrays["dc_n"], cache), strict=True):
        assert_close(gradient, ours.detach(), kind="gradient")


def test_second_derivatives(library):
    """Double backward, through the traced reference engine: gradcheck of the gradient."""
    lib, values = library("torch"), random_problem(N=2, T=2, D=1, H=1)
    leaves = [lib.asarray(values[name]).requires_grad_() for name in ARGUMENTS]

    def outputs(x, h0, Wx, Wh, b, c0):
        h, cache = lstm_forward(x, h0, Wx, Wh, b, c0=c0)
        return h, cache.h_n, cache.c_n

    assert lib.xp.autograd.gradgradcheck(outputs, leaves)


def test_no_graph_is_kept_without_gradients(library):
    arrays = given(library("torch"), random_problem())
    for name, result in run(arrays, **ORDERS["reverse, lengths"]).items():
        assert not result.requires_grad, name
        assert np.all(np.isfinite(to_numpy(result)))
