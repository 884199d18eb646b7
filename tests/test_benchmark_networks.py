"""The benchmark of whole networks: what is measured is what the table says. No time is judged."""

import subprocess
import sys

import numpy as np
import pytest

from benchmarks import networks, records
from benchmarks.tables import milliseconds
from lstm_xp.testing import assert_close

ALONE = {"lstm_xp": networks.Ours}


@pytest.mark.parametrize("ragged", [False, True])
def test_a_run(tmp_path, capsys, monkeypatch, ragged):
    monkeypatch.setattr(networks, "CONTENDERS", ALONE)
    out, sizes = tmp_path / "found.jsonl", ["2,2,3,5,4,6", "1,1,2,3,4,5"]
    arguments = ["--sizes", *sizes, "--rounds", "1", "--seconds", "0", "--out", str(out)]
    assert networks.main(arguments + ["--lengths"] * ragged) == 0
    found = records.read(out)
    assert [(record["size"], record["what"]) for record in found] == [
        (size, what) for size in sizes for what in ("inference", "training")
    ]
    assert all(record["lengths"] is ragged for record in found)
    assert all(record["median_s"] == record["round_medians_s"][0] > 0 for record in found)
    printed = capsys.readouterr().out
    assert networks.table(found) in printed
    for record in found:
        assert milliseconds(record["median_s"]) in printed


def test_what_each_is_measured_at():
    assert [name for name, what in networks.things(False) if what == "training"] == ["lstm_xp", "torch_cpu"]
    assert {name for name, _ in networks.things(True)} == {"lstm_xp", "torch_cpu"}
    assert ("onnxruntime", "inference") in networks.things(False)


@pytest.mark.parametrize(
    ("name", "package", "ragged"),
    [("lstm_xp", "numpy", True), ("torch_cpu", "torch", False), ("torch_cpu", "torch", True),
     ("onnxruntime", "onnxruntime", False)],
)  # fmt: skip
def test_contenders_are_right(name, package, ragged):
    """Each compares its output before it is timed; the gradients of one are those of the other."""
    pytest.importorskip(package)
    assert len(networks.calls(name, "inference", (2, 2, 3, 7, 4, 5), ragged, 0)) == 2
    assert len(networks.calls(name, "inference", (1, 1, 1, 4, 3, 6), ragged, 0)) == 2


@pytest.mark.parametrize("ragged", [False, True])
def test_the_training_that_is_timed_gives_the_same_gradients(monkeypatch, ragged):
    pytest.importorskip("torch")
    seen = {}
    monkeypatch.setattr(networks.turns, "taken", lambda call, seconds: seen.update({call.__self__: call()}) or [1, 1])
    for name in ("lstm_xp", "torch_cpu"):
        networks.calls(name, "training", (2, 2, 3, 7, 4, 5), ragged, 0)
    (dx, _, dparams), gradients = seen.values()
    assert len(gradients) == 1 + 4 * len(dparams)
    options = {"kind": "gradient", "steps": 14}
    assert_close(dx, gradients[0].numpy(), name="dx", **options)
    i, f, g, o = np.split(gradients[2].numpy().T, 4, axis=1)  # PyTorch's order
    assert_close(dparams[0].Wh, np.concatenate([i, f, o, g], axis=1), name="dWh", **options)


def test_a_wrong_output_is_not_timed(monkeypatch):
    class Wrong(networks.Ours):
        def inference(self):
            return super().inference() * np.float32(1.001)

    monkeypatch.setattr(networks, "CONTENDERS", {"lstm_xp": Wrong})
    with pytest.raises(AssertionError, match="output of lstm_xp"):
        networks.calls("lstm_xp", "inference", (1, 2, 3, 7, 4, 5), False, 0)


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--sizes", "1,2,3,4"], ["--sizes", "1,3,1,1,1,1"]])
def test_wrong_arguments(arguments):
    done = subprocess.run([sys.executable, "-m", "benchmarks.networks", *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert arguments[0] in done.stderr
