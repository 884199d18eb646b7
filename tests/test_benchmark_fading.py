"""The benchmark of gradients that fade away: what is measured is what the table says. No time is judged."""

import numpy as np
import pytest

from benchmarks import fading, records, rivals
from benchmarks.tables import milliseconds


def test_a_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fading, "CONTENDERS", ("lstm_xp", "lstm_xp:numpy_fused"))
    out = tmp_path / "found.jsonl"
    assert fading.main(["--sizes", "2,3,4,5", "--rounds", "1", "--seconds", "0", "--out", str(out)]) == 0
    found = records.read(out)
    assert [(record["contender"], record["gradient"]) for record in found] == [
        (name, gradient) for name in fading.CONTENDERS for gradient in fading.GRADIENTS
    ]
    assert all(record["median_s"] == record["round_medians_s"][0] > 0 for record in found)
    printed = capsys.readouterr().out
    assert fading.table(found) in printed
    for record in found:
        assert milliseconds(record["median_s"]) in printed


@pytest.mark.parametrize("gradient", fading.GRADIENTS)
def test_the_gradient_is_that_of_the_last_output_or_of_all(monkeypatch, gradient):
    seen = []

    class Contender:
        def __init__(self, problem, arrays, option):
            seen.append((arrays["dh"], arrays["b"], option))

        def training(self):
            seen.append("call")

    class Module:
        pass

    Module.Contender = Contender
    monkeypatch.setattr(rivals, "load", lambda name: (Module, name.partition(":")[2]))
    assert len(fading.calls("lstm_xp:numpy_fused", [2, 3, 4, 5], gradient, 0)) == 2
    (dh, b, option), *rest = seen
    assert rest == ["call"] * 3
    assert option == "numpy_fused"
    assert np.all(b[5:10] == 1)
    assert np.all(dh[:, -1])
    assert bool(np.any(dh[:, :-1])) == (gradient == "of every output")


def test_a_process_that_fails_ends_the_run():
    with pytest.raises(SystemExit, match="nobody: "):
        fading.measure("nobody", [1, 2, 3, 4], "of every output", 0)
