"""ONNX files that PyTorch exported: the nodes of its layers are one network, which computes what PyTorch does."""

import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest

from lstm_xp import LSTM, State
from lstm_xp.testing import assert_close
from lstm_xp.weights.onnx import names, read

onnx = pytest.importorskip("onnx")
DATA = Path(__file__).with_name("data")
N, T, D, H = 2, 5, 3, 4


@pytest.mark.parametrize("file", ["torch_lstm.onnx", "torch_lstm_sizes.onnx", "torch_lstm_batch.onnx"])
def test_models_exported_by_pytorch(file):
    (name,) = names(DATA / file)
    assert name.count("+") == 1
    network, params = read(DATA / file)
    assert network == LSTM(D, H, num_layers=2, bidirectional=True)
    witness = np.load(DATA / "torch_lstm.npz")
    y, state, _ = network.forward(params, witness["x"])
    for name, ours in (("y", y), ("h_n", state.h), ("c_n", state.c)):
        assert_close(ours, witness[name].astype("float64"), like=ours, steps=10, name=name)


def exported(path, module, arguments, **options):
    """Export a module; what the exporter says is not for the eye."""
    torch = pytest.importorskip("torch")
    if options["dynamo"]:
        pytest.importorskip("onnxscript")
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        torch.onnx.export(module, arguments, path, **options)


def model(layers, bidirectional, batch_first, around, with_state):
    """A PyTorch model of random weights, and its arguments; `around`: an embedding before and a linear layer behind."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch.nn.LSTM(D, H, layers, bidirectional=bidirectional, batch_first=batch_first)
            self.embedding = torch.nn.Embedding(7, D) if around else torch.nn.Identity()
            self.linear = torch.nn.Linear(H * (1 + bidirectional), 2) if around else torch.nn.Identity()

        def forward(self, x, *state):
            y, state = self.lstm(self.embedding(x), state or None)
            return self.linear(y), *state

    sizes = (N, T) if batch_first else (T, N)
    x = torch.randint(7, sizes) if around else torch.randn(*sizes, D)
    state = [torch.randn(layers * (1 + bidirectional), N, H) for _ in "hc"] if with_state else []
    return Model().eval(), (x, *state)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("with_state", [False, True], ids=["zeros", "state"])
@pytest.mark.parametrize("around", [False, True], ids=["alone", "embedded"])
@pytest.mark.parametrize(
    ("layers", "bidirectional", "batch_first", "options"),
    [
        (2, False, False, {"dynamo": False}),
        (3, True, True, {"dynamo": False}),
        (2, True, False, {"dynamo": False, "opset_version": 9}),
        (2, False, True, {"dynamo": False, "opset_version": 13, "do_constant_folding": True}),
        (2, False, False, {"dynamo": True}),
        (3, True, True, {"dynamo": True}),
        (3, True, False, {"dynamo": True, "opset_version": 22}),
    ],
)
def test_layers_of_an_export(layers, bidirectional, batch_first, options, around, with_state, tmp_path):
    path = tmp_path / "model.onnx"
    module, arguments = model(layers, bidirectional, batch_first, around, with_state)
    exported(path, module, arguments, **options)
    network, params = read(path)
    assert network == LSTM(D, H, num_layers=layers, bidirectional=bidirectional, time_major=not batch_first)
    x, *state = (v.detach().numpy() for v in (module.embedding(arguments[0]), *arguments[1:]))
    y, end, _ = network.forward(params, x, State(*state) if state else None)
    theirs = module.lstm(module.embedding(arguments[0]), arguments[1:] or None)
    for name, ours, its in zip(("y", "h_n", "c_n"), (y, *end), (theirs[0], *theirs[1]), strict=True):
        assert_close(ours, its.detach().numpy().astype("float64"), like=ours, steps=T * layers, name=name)
