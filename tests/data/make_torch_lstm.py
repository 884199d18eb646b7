"""Makes torch_lstm.onnx and torch_lstm.npz: a PyTorch LSTM, exported, with its outputs. Needs torch and onnx.

    python tests/data/make_torch_lstm.py

Two layers, both directions, batch first. Every parameter is random; the exporter's own names and nodes are what counts.
"""

from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def main():
    import torch

    torch.manual_seed(0)
    module = torch.nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True).eval()
    x = torch.randn(2, 5, 3)
    with torch.no_grad():
        y, (h_n, c_n) = module(x)
    np.savez(HERE / "torch_lstm.npz", x=x, y=y, h_n=h_n, c_n=c_n)
    axes = {"x": [0, 1]}
    torch.onnx.export(module, (x,), HERE / "torch_lstm.onnx", dynamo=False, input_names=["x"], dynamic_axes=axes)


if __name__ == "__main__":
    main()
