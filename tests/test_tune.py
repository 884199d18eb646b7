"""`lstm-xp tune`: engines are proved, timed and remembered. Here on NumPy, whose engines are measured alike."""

import json

import pytest
from on_fake import machine_of
from test_cupy_grid import problem

from lstm_xp import cli, engines
from lstm_xp.commands import tune
from lstm_xp.engines import numpy_fused
from lstm_xp.engines.cuda import choice
from lstm_xp.libraries import open_library

NAMES = ["numpy_fused", "array_api"]
SIZES = ((2, 4), (1, 9))


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The user's file, where there is none yet."""
    file = tmp_path / "folder" / "engines.json"
    monkeypatch.setattr(choice, "own_file", lambda: file)
    choice.forget()
    yield file
    choice.forget()


def measured(capsys):
    points, wrong = tune.measure(open_library("numpy"), NAMES, SIZES, 0, print)
    return points, wrong, capsys.readouterr()


def test_every_engine_at_every_size_in_every_kind_of_numbers(capsys):
    points, wrong, told = measured(capsys)
    kinds = [("float32", "ieee"), ("float32", "tf32"), ("float16", "ieee"), ("float64", "ieee")]  # NumPy's
    assert wrong == {}
    assert [(p["dtype"], p["precision"], p["N"], p["H"], p["training"]) for p in points] == [
        (*kind, *size, training) for kind in kinds for size in SIZES for training in (False, True)
    ]
    assert all(sorted(point["engines"]) == sorted(NAMES) for point in points)
    assert told.out.count("numpy_fused") == len(kinds) * len(SIZES)


def test_the_quickest_comes_first(monkeypatch):
    times = {"numpy_fused": (1.0, 4.0), "array_api": (2.0, 3.0)}
    monkeypatch.setattr(tune.Problem, "times", lambda self, name: times[name])
    points, _ = tune.measure(open_library("numpy"), NAMES, SIZES[:1], 0, lambda text: None)
    assert [point["engines"] for point in points[:2]] == [NAMES, NAMES[::-1]]


@pytest.mark.parametrize(("planted", "told"), [("wrong", "dx is wrong: its error is"), ("raises", "no luck")])
def test_an_engine_that_is_wrong_anywhere_is_left_out(monkeypatch, capsys, planted, told):
    right = numpy_fused.backward

    def backward(dh, dh_n, dc_n, gates, *rest):
        if planted == "raises":
            raise RuntimeError("no luck")
        da, *states = right(dh, dh_n, dc_n, gates, *rest)
        return da * (1.01 if gates.shape[2] == 36 else 1), *states

    monkeypatch.delattr(numpy_fused, "gradients")  # which would run in its place
    monkeypatch.setattr(numpy_fused, "backward", backward)
    points, wrong, said = measured(capsys)
    assert told in wrong["numpy_fused"]
    assert "FAILED: numpy_fused" in said.err
    assert all(point["engines"] == ["array_api"] for point in points)


def test_too_little_memory_is_nobodys_fault(monkeypatch, capsys):
    def full(self, name):
        if self.case.H == 9:
            raise MemoryError
        return 1.0, 1.0

    monkeypatch.setattr(tune.Problem, "times", full)
    points, wrong, told = measured(capsys)
    assert wrong == {}
    assert {point["H"] for point in points} == {4}
    assert told.out.count("not measured: too little memory") == 4


def test_without_a_gpu_it_says_so(own, capsys, monkeypatch):
    def missing(name):
        raise tune.libraries.Missing("CuPy finds no GPU")

    monkeypatch.setattr(tune.libraries, "open_library", missing)
    assert cli.main(["tune"]) == 2
    assert "lstm-xp tune: CuPy finds no GPU" in capsys.readouterr().err
    assert not own.exists()


def test_it_can_be_forgotten(own, capsys):
    own.parent.mkdir()
    own.write_text("{}")
    assert cli.main(["tune", "--forget"]) == cli.main(["tune", "--forget"]) == 0
    assert capsys.readouterr().out == f"removed: {own}\nthere is none: {own}\n"
    assert not own.exists()


def test_nobody_without_a_home_has_a_file(monkeypatch, capsys):
    monkeypatch.setattr(choice, "own_file", lambda: None)
    assert cli.main(["tune"]) == 2
    assert "there is no home folder" in capsys.readouterr().err


def test_what_is_written_is_what_is_chosen_by(own, monkeypatch, capsys):
    machine = machine_of(monkeypatch, processors=100)
    assert engines.choose("auto", problem(machine)).name == "array_api"
    points = [{"dtype": "float32", "precision": "ieee", "training": True, "N": 1, "H": 1, "engines": ["cupy_grid"]}]
    monkeypatch.setattr(tune, "measure", lambda *_: (points, {}))
    monkeypatch.setattr(
        tune.libraries, "open_library", lambda name: open_library("numpy")._replace(device=machine.devices[0])
    )
    assert cli.main(["tune"]) == 0
    assert str(own) in capsys.readouterr().out
    choice.forget()
    assert engines.choose("auto", problem(machine)).name == "cupy_grid"
    assert {"NVIDIA Test", "NVIDIA H200"} <= set(choice.measured())


BAD = ["{", "[]", json.dumps({"format": "something"}), json.dumps({"format": choice.FORMAT, "devices": {"A": {}}})]


@pytest.mark.parametrize("text", BAD)
def test_a_file_that_cannot_be_read_is_left_out(own, text):
    own.parent.mkdir()
    own.write_text(text)
    with pytest.warns(RuntimeWarning, match="is left out, for it cannot be read"):
        assert list(choice.measured()) == ["NVIDIA H200"]


def test_a_folder_that_cannot_be_read_is_left_out(own):
    own.mkdir(parents=True)  # a folder in the place of the file
    with pytest.warns(RuntimeWarning, match="is left out, for it cannot be read"):
        assert list(choice.measured()) == ["NVIDIA H200"]


def test_nothing_is_measured_where_nothing_could_be_written(own, monkeypatch, capsys):
    own.parent.mkdir()
    own.write_text("{")
    monkeypatch.setattr(tune.libraries, "open_library", open_library_of_numpy)
    monkeypatch.setattr(tune, "measure", lambda *_: pytest.fail("it began"))
    assert cli.main(["tune"]) == 2
    assert "take it away with --forget" in capsys.readouterr().err


def open_library_of_numpy(name):
    return open_library("numpy")


def test_engines_of_other_versions_are_left_out(own):
    point = {"dtype": "float32", "precision": "ieee", "training": True, "N": 1, "H": 1, "engines": ["new", "cupy_step"]}
    own.parent.mkdir()
    entry = {"capability": "80", "processors": 108, "quickest": [point]}
    own.write_text(json.dumps({"format": choice.FORMAT, "devices": {"A": entry}}))
    assert choice.measured()["A"]["quickest"][0]["engines"] == ["cupy_step"]
