"""The benchmark of calls beside other work: what is measured is what the table says. No time is judged."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from benchmarks import beside, records, turns
from benchmarks.tables import milliseconds


def test_a_run(tmp_path, capsys):
    out = tmp_path / "found.jsonl"
    assert beside.main(["--sizes", "2,3,4,5", "1,2,3,4", "--rounds", "1", "--seconds", "0", "--out", str(out)]) == 0
    found = records.read(out)
    assert [record["beside"] for record in found] == 2 * list(beside.CONDITIONS)
    assert [[record[letter] for letter in "NTDH"] for record in found[::4]] == [[2, 3, 4, 5], [1, 2, 3, 4]]
    assert all(record["median_s"] == record["round_medians_s"][0] > 0 for record in found)
    printed = capsys.readouterr().out
    assert beside.table(found) in printed
    for record in found:
        assert milliseconds(record["median_s"]) in printed


@pytest.mark.parametrize("product", [True, False])
def test_a_product_comes_before_each_call_and_is_not_timed(monkeypatch, product):
    events = []

    class Contender:
        def __init__(self, *arguments):
            self.inference = lambda: events.append("call")

    class Factor:
        def __matmul__(self, other):
            events.append("product")

    def clock():
        events.append("clock")
        return len(events)

    monkeypatch.setattr(beside, "Contender", Contender)
    monkeypatch.setattr(beside, "np", SimpleNamespace(ones=lambda *arguments: Factor(), float32=None))
    monkeypatch.setattr(turns, "perf_counter", clock)
    taken = beside.calls([1, 2, 3, 4], product, 0)
    one = ["product"] * product + ["clock", "call", "clock"]
    assert events == ["call", "clock", *one, *one, "clock"]
    assert taken == [2, 2]


@pytest.mark.parametrize("condition", beside.CONDITIONS)
def test_what_is_beside_a_process(monkeypatch, condition):
    """The variable, whatever the caller has set; a program that lives as long as the process."""
    programs, alive, environments = [], [], []

    class Program:
        def __init__(self, command):
            programs.append(self)
            self.runs = True

        def kill(self):
            self.runs = False

        def wait(self):
            assert not self.runs

    def run(command, env, **options):
        alive.append([program.runs for program in programs])
        environments.append(env)
        return SimpleNamespace(returncode=0, stdout="[3.0, 1.0, 2.0]")

    monkeypatch.setenv(beside.TIMEOUT, "30")
    monkeypatch.setattr(beside, "subprocess", SimpleNamespace(Popen=Program))
    monkeypatch.setattr(turns, "subprocess", SimpleNamespace(run=run))
    assert beside.measure((1, 2, 3, 4), condition, 0) == 2.0
    assert environments[0].get(beside.TIMEOUT) == ("20" if "TIMEOUT" in condition else None)
    assert alive == [[True] if "program" in condition else []]
    assert not any(program.runs for program in programs)


def test_a_process_that_fails_is_said():
    with pytest.raises(SystemExit, match=r"alone: (?s:.)*Error"):
        beside.measure((1, 2, 3, -4), "alone", 0)


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--sizes", "1,2,3"], ["--out", "no/such/folder/file"]])
def test_wrong_arguments(arguments):
    done = subprocess.run([sys.executable, "-m", "benchmarks.beside", *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert arguments[0] in done.stderr
