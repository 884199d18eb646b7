"""The benchmark of cells beside those who have them: what is measured is what the table says. No time is judged."""

import subprocess
import sys

import numpy as np
import pytest

from benchmarks import cells, networks, records
from benchmarks.tables import milliseconds
from lstm_xp import weights
from lstm_xp.testing import assert_close, relative_error

SIZE = (3, 7, 4, 6)
# PyTorch says of a projection that it runs without oneDNN.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


def test_a_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(networks, "CONTENDERS", {"lstm_xp": networks.Ours})
    out, sizes, asked = tmp_path / "found.jsonl", ["2,3,4,6", "1,2,3,4"], ["peepholes", "projection to H/2"]
    arguments = ["--cells", *asked, "--sizes", *sizes, "--rounds", "1", "--seconds", "0", "--out", str(out)]
    assert cells.main(arguments) == 0
    found = records.read(out)
    assert [(record["size"], record["cell"], record["what"]) for record in found] == [
        (size, cell, what) for size in sizes for cell in asked for what in ("inference", "training")
    ]
    assert [[record[letter] for letter in "NTDH"] for record in found[::4]] == [[2, 3, 4, 6], [1, 2, 3, 4]]
    assert all(record["median_s"] == record["round_medians_s"][0] > 0 for record in found)
    printed = capsys.readouterr().out
    assert cells.table(found) in printed
    for record in found:
        assert milliseconds(record["median_s"]) in printed


def test_the_table():
    """Cell by cell, and contenders in the order of benchmarks.networks, whichever comes first among the records."""
    asked = ["peepholes", "projection to H/2"]
    found = [
        cells.about(thing, (1, 2, 3, 4)) | {"size": size, "median_s": number / 1000}
        for size in ("small", "large")
        for number, thing in enumerate(cells.things(asked), 1)
    ]
    assert cells.table(found).splitlines() == [
        "| cell | N,T,D,H | lstm_xp, inference | torch_cpu, inference | onnxruntime, inference | lstm_xp, training "
        "| torch_cpu, training |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
        "| projection to H/2 | small | 4.00 | 5.00 | - | 6.00 | 7.00 |",
        "| projection to H/2 | large | 4.00 | 5.00 | - | 6.00 | 7.00 |",
        "| peepholes | small | 1.00 | - | 2.00 | 3.00 | - |",
        "| peepholes | large | 1.00 | - | 2.00 | 3.00 | - |",
    ]


def test_who_is_measured_at_what():
    found = cells.things(cells.CELLS)
    assert [cell for cell, *pair in found if pair == ["lstm_xp", "training"]] == list(cells.CELLS)
    assert [cell for cell, *pair in found if pair == ["torch_cpu", "training"]] == [cells.PLAIN, "projection to H/2"]
    assert ("projection to H/2", "onnxruntime", "inference") not in found
    assert ("peepholes", "onnxruntime", "inference") in found


@pytest.mark.parametrize("cell", cells.CELLS)
def test_whoever_has_a_cell_is_measured(cell):
    """And nobody else: the weights cannot be written for them."""
    (network, params, *_), _ = cells.given(cell, SIZE)
    for name, written in (("torch_cpu", weights.to_pytorch), ("onnxruntime", weights.to_onnx)):
        if name in cells.CELLS[cell]:
            written(network, params)
        else:
            with pytest.raises(ValueError, match="LSTM"):
                written(network, params)


@pytest.mark.parametrize("cell", cells.CELLS)
def test_a_cell_is_not_the_plain_one(cell):
    """Else a rival that leaves out what makes the difference would be found right."""
    _, expected = cells.given(cell, SIZE)
    _, plain = cells.given(cells.PLAIN, SIZE)
    assert expected.dtype == np.float64
    if expected.shape == plain.shape:
        assert (relative_error(expected, plain) > 0.01) == (cell != cells.PLAIN)
    else:
        assert (cell, expected.shape) == ("projection to H/2", (3, 7, 3))


@pytest.mark.parametrize(
    ("cell", "name"), [(cell, name) for cell, rivals in cells.CELLS.items() for name in ("lstm_xp", *rivals)]
)
def test_contenders_are_right(cell, name):
    """Each compares its output before it is timed."""
    for package in {"torch_cpu": ["torch"], "onnxruntime": ["onnx", "onnxruntime"]}.get(name, []):
        pytest.importorskip(package)
    for size in (SIZE, (1, 9, 3, 20)):
        assert len(cells.calls(cell, name, "inference", size, 0)) == 2


def test_the_training_that_is_timed_gives_the_same_gradients(monkeypatch):
    pytest.importorskip("torch")
    seen = {}
    monkeypatch.setattr(networks.turns, "taken", lambda call, seconds: seen.update({call.__self__: call()}) or [1, 1])
    for name in ("lstm_xp", "torch_cpu"):
        cells.calls("projection to H/2", name, "training", SIZE, 0)
    (dx, _, (found,)), gradients = seen.values()
    dx_there, dWx, dWh, db, _, dWp = (gradient.numpy() for gradient in gradients)

    def ours(rows):  # PyTorch's order of gates
        i, f, g, o = np.split(rows.T, 4, axis=-1)
        return np.concatenate([i, f, o, g], axis=-1)

    wanted = {"Wx": ours(dWx), "Wh": ours(dWh), "b": ours(db), "Wp": dWp.T}
    for name, gradient in wanted.items():
        assert_close(getattr(found, name), gradient, kind="gradient", steps=SIZE[1], name=name)
    assert_close(dx, dx_there, kind="gradient", steps=SIZE[1], name="dx")


def test_the_threads_of_the_reference_rest_before_the_timing(monkeypatch):
    events = []
    monkeypatch.setattr(cells, "given", lambda *asked: events.append("reference") or ("made", "expected"))
    monkeypatch.setattr(cells, "rest", lambda: events.append("rest"))
    monkeypatch.setattr(networks, "timed", lambda *asked: events.append(asked))
    cells.calls("clip", "lstm_xp", "training", SIZE, 0.5)
    assert events == ["reference", "rest", ("lstm_xp", "training", "made", "expected", 0.5)]


@pytest.mark.parametrize("cell", ["clip", "peepholes"])
def test_a_wrong_output_is_not_timed(monkeypatch, cell):
    class Forgetful(networks.Ours):
        """Computes the plain cell."""

        def __init__(self, network, params, *others):
            plain = type(network)(network.input_size, network.hidden_size)
            super().__init__(plain, tuple(p._replace(peepholes=None) for p in params), *others)

    monkeypatch.setattr(networks, "CONTENDERS", {"lstm_xp": Forgetful})
    assert len(cells.calls(cells.PLAIN, "lstm_xp", "inference", SIZE, 0)) == 2
    with pytest.raises(AssertionError, match="output of lstm_xp"):
        cells.calls(cell, "lstm_xp", "inference", SIZE, 0)


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--sizes", "1,2,3"], ["--cells", "zoneout"]])
def test_wrong_arguments(arguments):
    done = subprocess.run([sys.executable, "-m", "benchmarks.cells", *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert arguments[0] in done.stderr
