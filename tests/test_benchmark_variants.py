"""The benchmark of cell variants: what is measured is what the table says. No time is judged."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import records, variants
from benchmarks.problems import Problem
from lstm_xp import LSTM, checks, engines, lstm_backward, lstm_forward
from lstm_xp.testing import assert_close
from lstm_xp.variant_cells import PLAIN

ROOT = Path(__file__).resolve().parent.parent
SIZE = (3, 5, 4, 6)
PROBLEM = Problem.of(SIZE, "float32")


@pytest.fixture
def program(capsys):
    """Runs the program in this process: exit status, standard output, standard error."""

    def run(*arguments):
        try:
            status = variants.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture(autouse=True)
def _undistorted(monkeypatch):
    for name in variants.machine.DISTORTING:
        monkeypatch.delenv(name, raising=False)


def test_a_run(program, tmp_path):
    out = tmp_path / "v.jsonl"
    status, printed, _ = program("--sizes", "3,5,4,6", "1,3,4,2", "--rounds", 2, "--seconds", 0, "--out", out)
    assert status == 0
    found = records.read(out)
    assert [record["contender"] for record in found[::2]] == list(variants.VARIANTS) * 2
    assert {record["engine"] for record in found[1::2]} == {"array_api"}
    assert [[record[letter] for letter in "NTDH"] for record in found[::20]] == [[3, 5, 4, 6], [1, 3, 4, 2]]
    for record in found:
        assert len(record["round_medians_s"]) == 2
        assert 0 < record["q1_s"] <= record["median_s"] <= record["q3_s"]
        assert {"cpu", "commit", "date", "load"} <= set(record["machine"])
        assert {"python", "numpy"} <= set(record["versions"])
    plain, general = found[:2]
    assert plain["over_plain"] == 1
    assert general["over_plain"] == general["median_s"] / plain["median_s"]
    text = (tmp_path / "v.md").read_text()
    assert text.startswith("# ")
    assert printed in text
    for name in variants.VARIANTS:
        assert text.count(f"| {name} | ") == 2


def test_the_plain_cells_are_those_of_lstm_forward():
    """On both engines: outputs and every gradient."""
    arrays = {name: array.astype(np.float64) for name, array in PROBLEM.arrays().items()}
    x, h0, Wx, Wh, b, c0, dh = (arrays[name] for name in ("x", "h0", "Wx", "Wh", "b", "c0", "dh"))
    h, cache = lstm_forward(x, h0, Wx, Wh, b, c0=c0)
    expected = lstm_backward(dh, cache)
    for engine in variants.ENGINES:
        y, (dx, dstate, (dparams,)) = variants.Contender(variants.PLAIN, PROBLEM, "float64", engine).training()
        found = y, dx, dstate.h[0], dparams.Wx, dparams.Wh, dparams.b, dstate.c[0]
        for actual, wanted in zip(found, (h, *expected, expected.dc0), strict=True):
            assert np.any(wanted)
            assert_close(actual, wanted, kind="gradient", steps=SIZE[1], name=engine)


@pytest.mark.parametrize("name", variants.VARIANTS)
@pytest.mark.parametrize("asked", variants.ENGINES)
def test_what_runs_where(name, asked):
    contender = variants.Contender(name, PROBLEM, "float32", asked)
    y, _ = contender.training()
    assert y.dtype == np.float32
    assert y.shape == (3, 5, 3 if "H/2" in name else 6)
    problem = checks.problem(contender.x, "cpu", 6, True, "ieee", np)
    assert contender.engine() == engines.choose(asked, problem, None if name == variants.PLAIN else PLAIN).name
    kind = type(contender.forward()[1].directions[0]).__name__
    assert kind == ("SequenceCache" if name == variants.PLAIN else "VariantCache")


def test_every_variant_of_the_cell_is_measured():
    """Whatever an LSTM can be configured to beside its shape; dropout outside of the cell is no variant of it."""
    outside = {"input_size", "hidden_size", "num_layers", "bidirectional", "reverse", "bias", "time_major", "dropout"}
    outside |= {"input_dropout", "forget_bias", "precision", "engine"}
    cells = set(LSTM.__dataclass_fields__) - outside
    assert {setting for settings in variants.VARIANTS.values() for setting in settings} == cells
    assert set(variants.VARIANTS[variants.EVERYTHING]) == cells


def test_masks_are_drawn_before_the_timing():
    contender = variants.Contender("zoneout of h and c", PROBLEM, "float32")
    first, second = contender.training()[0], contender.training()[0]
    assert np.array_equal(first, second)
    assert 0 < np.mean(contender.masks.zoneout_h[0]) < 1
    wide = variants.Contender("zoneout of h and c", PROBLEM, "float64")
    assert np.array_equal(wide.masks.zoneout_c[0], contender.masks.zoneout_c[0])


def test_wrong_numbers_get_no_time(program, monkeypatch, tmp_path):
    honest = variants.Contender.training

    def wrong(contender):
        y, gradients = honest(contender)
        return (y * (1 + 1e-4) if contender.network.peepholes and y.dtype == np.float32 else y), gradients

    monkeypatch.setattr(variants.Contender, "training", wrong)
    with pytest.raises(AssertionError, match="peepholes: error"):
        program("--sizes", "3,5,4,6", "--rounds", 1, "--seconds", 0, "--out", tmp_path / "v.jsonl")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [["--sizes", "1,2,3"], ["--sizes", "1,2,3,0"], ["--rounds", 0], ["--seconds", -1], ["--out", "missing/v.jsonl"]],
)
def test_wrong_arguments(program, arguments):
    status, printed, told = program(*arguments)
    assert (status, printed) == (2, "")
    assert "error" in told


def test_settings_that_distort_are_left_out(program, monkeypatch):
    """They are read when NumPy is imported: the measuring is done in a process without them."""
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    seen = {}

    def run(words, env):
        seen.update(words=words, env=env)
        return type("Done", (), {"returncode": 7})

    monkeypatch.setattr(variants.machine, "describe", lambda: {"dropped": {"OPENBLAS_CORETYPE": "Haswell"}})
    monkeypatch.setattr(variants.subprocess, "run", run)
    assert program("--rounds", 3)[0] == 7
    assert seen["words"][-4:] == ["-m", "benchmarks.variants", "--rounds", "3"]
    assert "OPENBLAS_CORETYPE" not in seen["env"]


def test_the_published_table_is_that_of_its_records():
    """Of benchmarks/results and of the README: nothing in them is written by hand."""
    results = ROOT / "benchmarks" / "results"
    found = [json.loads(line) for line in (results / "cpu-variants.jsonl").read_text(encoding="utf-8").splitlines()]
    text = f"{variants.conditions(found[0])}\n\n{variants.table(found)}\n"
    assert text in (results / "cpu-variants.md").read_text(encoding="utf-8")
    assert variants.table(found) in (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert {record["machine"]["dropped"] == {} for record in found} == {True}
    assert checks.dtype_name(np.dtype(found[0]["dtype"])) == "float32"
