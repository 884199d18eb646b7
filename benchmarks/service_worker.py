"""One process of `benchmarks.service`: imports nothing but what its contender needs. service_worker.py NAME FOLDER"""

import json
import sys
from pathlib import Path
from time import perf_counter

BEGIN = perf_counter()
D, H, T, REQUESTS = 64, 128, 20, 200


def make(folder):
    """The model, its input and its output."""
    import numpy as np
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = torch.nn.LSTM(D, H, num_layers=2, bidirectional=True, batch_first=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    np.savez(folder / "model.npz", **{name: tensor.numpy() for name, tensor in model.state_dict().items()})
    x = torch.randn(1, T, D)
    with torch.inference_mode():
        np.savez(folder / "expected.npz", x=x.numpy(), y=model(x)[0].numpy())


def lstm_xp(folder):
    from lstm_xp import weights

    yield
    network, params = weights.read(folder / "model.safetensors")
    yield lambda x: network.forward(params, x, training=False)[0]


def numpy(folder):
    """A loop written for this one model: what Python and NumPy take by themselves."""
    import numpy as np

    yield
    model = dict(np.load(folder / "model.npz"))

    def logistic(z):
        return 1 / (1 + np.exp(-z))

    def direction(x, name):
        W, U, *biases = (model[f"{part}_{name}"] for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        h = c = np.zeros(H, x.dtype)
        y = []
        for a in x @ W.T + sum(biases):
            i, f, g, o = np.split(a + U @ h, 4)
            c = logistic(f) * c + logistic(i) * np.tanh(g)
            h = logistic(o) * np.tanh(c)
            y.append(h)
        return np.stack(y)

    def answer(x):
        (y,) = x
        for name in ("l0", "l1"):
            y = np.concatenate([direction(y, name), direction(y[::-1], f"{name}_reverse")[::-1]], axis=1)
        return y[None]

    yield answer


def onnxruntime(folder):
    import onnxruntime

    yield
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    name = session.get_inputs()[0].name
    yield lambda x: session.run(None, {name: x})[0]


def torch(folder):
    import torch
    from safetensors.torch import load_file

    yield
    model = torch.nn.LSTM(D, H, num_layers=2, bidirectional=True, batch_first=True)
    model.load_state_dict(load_file(folder / "model.safetensors"))

    def answer(x):
        with torch.inference_mode():
            return model(torch.from_numpy(x))[0].numpy()

    yield answer


def resident_MB():
    """The memory that this process holds, in megabytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024 / 1e6
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def main(name, folder):
    if name == "make":
        make(folder)
        return
    stages = {"lstm_xp": lstm_xp, "numpy": numpy, "onnxruntime": onnxruntime, "torch": torch}[name](folder)
    import numpy as np

    next(stages)
    imported = perf_counter()
    expected = dict(np.load(folder / "expected.npz"))
    ready = perf_counter()
    answer = next(stages)
    y = answer(expected["x"])
    first = perf_counter()
    error = float(np.max(np.abs(y - expected["y"])))
    if not error < 1e-5:
        raise SystemExit(f"{name} answers something else: off by {error:.2g}")
    held, times = resident_MB(), []
    for _ in range(REQUESTS):
        begin = perf_counter()
        answer(expected["x"])
        times.append(perf_counter() - begin)
    print(json.dumps({
        "import_ms": 1e3 * (imported - BEGIN),
        "first_output_ms": 1e3 * (imported - BEGIN + first - ready),
        "resident_MB": held,
        "request_us": 1e6 * sorted(times)[REQUESTS // 2],
        "error": error,
    }))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
