"""Makes torch_lstm*.onnx and torch_lstm.npz: a PyTorch LSTM, exported, with its outputs.

    python tests/data/make_torch_lstm.py

Two layers, both directions, batch first. Every parameter is random; the exporters' own names and nodes are what counts.
torch_lstm.onnx is of the exporter by TorchScript, torch_lstm_sizes.onnx and torch_lstm_batch.onnx of the one by
torch.export, for inputs of these sizes alone and for batches of any. Needs torch, onnx and onnxscript.
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
    batch = {0: torch.export.Dim.DYNAMIC}
    for name, shapes in (("sizes", None), ("batch", {"input": batch})):
        path = HERE / f"torch_lstm_{name}.onnx"
        torch.onnx.export(module, (x,), path, dynamo=True, external_data=False, dynamic_shapes=shapes)
        strip(path)


def strip(path):
    """Leave out what the exporter tells of the programme and the machine that it ran on."""
    import onnx

    model = onnx.load(path)
    for part in (model, model.graph, *model.graph.node, *model.graph.initializer, *model.graph.value_info,
                 *model.graph.input, *model.graph.output):  # fmt: skip
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    onnx.save(model, path)


if __name__ == "__main__":
    main()
