"""The README's Python examples run as they are printed."""

import re
from pathlib import Path

import pytest

from lstm_xp import LSTM, weights

README = Path(__file__).parent.parent / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_there_are_examples_for_numpy_and_cupy():
    assert any("import numpy" in example for example in EXAMPLES)
    assert any("import cupy" in example for example in EXAMPLES)


@pytest.mark.parametrize("example", [example for example in EXAMPLES if "import cupy" not in example])
def test_example(example, tmp_path, monkeypatch):
    network = LSTM(3, 4, num_layers=2, bidirectional=True)
    weights.write(tmp_path / "model.safetensors", network, network.init(), format="pytorch")  # as PyTorch names them
    monkeypatch.chdir(tmp_path)
    exec(compile(example, str(README), "exec"), {})


@pytest.mark.parametrize("example", [example for example in EXAMPLES if "import cupy" in example])
def test_cupy_example_is_the_numpy_one_with_another_library(example):
    as_numpy = example.replace("import cupy as cp", "import numpy as cp")
    exec(compile(as_numpy, str(README), "exec"), {})
