"""Whole networks: layers, both directions, sequences of different lengths; beside PyTorch and ONNX Runtime.

    python -m benchmarks.networks [--sizes 2,2,1,20,64,128] [--lengths] [--rounds 5] [--seconds 0.5] [--out FILE]

Sizes are layers, directions, batch N, steps T, features D and units H of each direction. Inference, and forward +
backward with gradients of the input and of all parameters, float32. With --lengths, rows have T/2 to T steps, which
PyTorch takes as a packed sequence. Outputs are compared with float64 before anything is timed. Each contender has
processes of its own, in turn; times are medians over the rounds.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from lstm_xp import LSTM, freeze, weights
from lstm_xp.testing import limit, relative_error

from . import turns
from .arguments import add_run, check_run

LETTERS = "L,directions,N,T,D,H"
# So many times our limit of errors is granted to rivals: PyTorch's are at times twice as large, at others not.
RIVALS = 4
SIZES = (
    (1, 2, 1, 50, 64, 64),
    (2, 2, 1, 20, 64, 128),
    (2, 2, 1, 100, 128, 256),
    (1, 2, 1, 100, 64, 512),
    (1, 2, 8, 100, 64, 128),
    (2, 1, 16, 50, 128, 256),
    (2, 2, 16, 100, 128, 256),
    (1, 2, 32, 100, 128, 256),
    (3, 2, 32, 50, 64, 128),
    (2, 2, 64, 50, 128, 512),
)


class Ours:
    """lstm_xp, with weights that are constants in inference, as those of an ONNX Runtime session are."""

    def __init__(self, network, params, x, dy, lengths):
        self.network, self.params, self.frozen = network, params, freeze(params)
        self.x, self.dy, self.lengths = x, dy, lengths

    def inference(self):
        return self.network.forward(self.frozen, self.x, lengths=self.lengths, training=False)[0]

    def training(self):
        _, _, cache = self.network.forward(self.params, self.x, lengths=self.lengths)
        return self.network.backward(self.dy, cache)


class Torch:
    """torch.nn.LSTM, batch first."""

    def __init__(self, network, params, x, dy, lengths):
        import torch

        self.torch, self.lengths = torch, None if lengths is None else torch.from_numpy(lengths)
        self.module = torch.nn.LSTM(
            network.input_size, network.hidden_size, network.num_layers,
            batch_first=True, bidirectional=network.bidirectional, proj_size=network.proj_size,
        )  # fmt: skip
        state = weights.to_pytorch(network, params)
        self.module.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in state.items()})
        self.x, self.dy = torch.from_numpy(x), torch.from_numpy(dy)
        self.leaf = self.x.clone().requires_grad_()

    def inference(self):
        with self.torch.inference_mode():
            return self._forward(self.x).numpy()

    def training(self):
        return self.torch.autograd.grad(self._forward(self.leaf), [self.leaf, *self.module.parameters()], self.dy)

    def _forward(self, x):
        if self.lengths is None:
            return self.module(x)[0]
        rnn = self.torch.nn.utils.rnn
        packed = rnn.pack_padded_sequence(x, self.lengths, batch_first=True, enforce_sorted=False)
        return rnn.pad_packed_sequence(self.module(packed)[0], batch_first=True, total_length=x.shape[1])[0]


class OnnxRuntime:
    """ONNX Runtime on the model that lstm_xp writes, default session options; inference of full rows."""

    def __init__(self, network, params, x, dy, lengths):
        import onnxruntime

        with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
            file = Path(folder) / "network.onnx"
            weights.write(file, network, params)
            self.session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        self.feed = {self.session.get_inputs()[0].name: x}

    def inference(self):
        return self.session.run(None, self.feed)[0]


CONTENDERS = {"lstm_xp": Ours, "torch_cpu": Torch, "onnxruntime": OnnxRuntime}


def things(ragged):
    """What is timed: contender and work."""
    found = [(name, what) for what in ("inference", "training") for name in CONTENDERS]
    return [thing for thing in found if thing[0] != "onnxruntime" or (thing[1] == "inference" and not ragged)]


def calls(name, what, size, ragged, seconds):
    """Seconds that each call of a contender took, after its output was compared."""
    layers, directions, N, T, D, H = size
    network, rng = LSTM(D, H, layers, bidirectional=directions == 2, forget_bias=0), np.random.default_rng(0)
    x, dy = (rng.standard_normal((N, T, K), dtype=np.float32) for K in (D, directions * H))
    lengths = rng.integers(max(1, T // 2), T + 1, N) if ragged else None
    params = network.init()
    exact = LSTM(D, H, layers, bidirectional=directions == 2, forget_bias=0, engine="array_api")
    wide = [type(p)(*(None if v is None else v.astype(np.float64) for v in p)) for p in params]
    expected, _, _ = exact.forward(wide, x.astype(np.float64), lengths=lengths, training=False)
    return timed(name, what, (network, params, x, dy, lengths), expected, seconds)


def timed(name, what, given, expected, seconds):
    """Seconds that each call of a contender took, after its output was compared with what is expected, in float64.

    `given` is what contenders are made of: network, parameters, x, gradient of the output, and lengths or None.
    """
    contender, (network, _, x, *_) = CONTENDERS[name](*given), given
    error = relative_error(contender.inference(), expected)
    most = limit("float32", steps=network.num_layers * x.shape[1])
    if not error <= most * (1 if name == "lstm_xp" else RIVALS):
        raise AssertionError(f"output of {name}: error {error:.3g}, where {most:.3g} is rounding")
    return turns.taken(getattr(contender, what), seconds)


def measure(thing, size, ragged, seconds):
    """The median call of a fresh process."""
    return turns.ask("networks", thing[0], [*thing, size, ragged, seconds])


def table(found, first=(LETTERS,), keys=("size",)):
    """The records as Markdown: a row for each set of values of these keys, which stand in the first columns."""
    of = {}
    for record in found:
        of.setdefault(tuple(record[key] for key in keys), {})[record["contender"], record["what"]] = record
    columns = [pair for pair in things(False) if any(pair in row for row in of.values())]
    rows = [(names, [row.get(pair) for pair in columns]) for names, row in of.items()]
    return turns.table(first, [f"{name}, {what}" for name, what in columns], rows)


def main(argv=None):
    """Run the program; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.networks", description=__doc__.partition("\n")[0])
    add_run(parser, SIZES, "contender", LETTERS)
    parser.add_argument("--lengths", action="store_true", help="rows of T/2 to T steps (without ONNX Runtime)")
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps(calls(*json.loads(args.one))))
        return 0
    check_run(parser, args)
    if any(directions > 2 for _, directions, *_ in args.sizes):
        parser.error("--sizes: directions must be 1 or 2")

    def about(thing, size):
        sizes = dict(zip(("layers", "directions", *"NTDH"), size, strict=True))
        return sizes | {"lengths": args.lengths, "contender": thing[0], "what": thing[1]}

    asked = things(args.lengths)
    return turns.run(
        args, asked, lambda thing, size: measure(thing, size, args.lengths, args.seconds), about, table
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
