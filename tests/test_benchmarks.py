"""The benchmarks, end to end at a tiny size: what is recorded, who is refused. No time is judged."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Contenders that must not get a time, or not all: each in a file of its own, as a user would bring one.
PLANTED = {
    "wrong.py": """
        from benchmarks import ours
        packages = ()
        class Contender(ours.Contender):
            def named(self, what, result):
                arrays = super().named(what, result)
                return arrays | ({"dWh": arrays["dWh"] * (1 + 1e-5)} if what == "training" else {})
    """,
    "lazy.py": """
        from benchmarks import ours
        packages = ()
        class Contender(ours.Contender):
            def named(self, what, result):
                arrays = super().named(what, result)
                arrays.pop("dx", None)
                return arrays
    """,
    "crashing.py": """
        import os
        packages = ()
        class Contender:
            def __init__(self, problem, arrays, option):
                os._exit(3)
    """,
    "absent.py": """
        import a_library_that_nobody_has
    """,
}
WHATS = ("inference", "training", "step")
GOOD = ("lstm_xp", "lstm_xp:array_api")


def benchmarks(*arguments, **variables):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *map(str, arguments)],
        cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmarks")
    for name, text in PLANTED.items():
        (folder / name).write_text("\n".join(line[8:] for line in text.splitlines()))
    out = folder / "out.jsonl"
    done = benchmarks(
        "--sizes", "1,5,4,6", "--contenders", *GOOD, *(folder / name for name in PLANTED), "--what", *WHATS,
        "--rounds", 1, "--seconds", 0.001, "--out", out, OPENBLAS_CORETYPE="Nehalem",
    )  # fmt: skip
    assert out.exists(), done.stderr
    return done, out, [json.loads(line) for line in out.read_text().splitlines()]


def by_name(records):
    return {(Path(record["contender"]).name, record["what"]): record for record in records}


def test_every_contender_has_a_record_for_everything_it_does(measured):
    records = measured[2]
    found = by_name(records)
    assert len(found) == len(records)
    assert set(found) == {(name, what) for name in (*GOOD, "wrong.py", "lazy.py", "crashing.py") for what in WHATS}
    for name in GOOD:
        for what in WHATS:
            record = found[name, what]
            assert record["failed"] is None
            assert (record["N"], record["T"], record["D"], record["H"]) == (1, 5, 4, 6)
            assert record["dtype"] == "float32"
            assert 0 < record["min_s"] <= record["q1_s"] <= record["median_s"] <= record["q3_s"]
            assert record["calls"] >= 2
            assert len(record["round_medians_s"]) == 1
            assert record["us_per_step"] == pytest.approx(record["median_s"] / 5 * 1e6)
            flop = 8 * 5 * 6 * (4 + 6) * (3 if what == "training" else 1)
            assert record["gflops"] == pytest.approx(flop / record["median_s"] / 1e9)
            assert record["share_of_gemm"] == pytest.approx(record["gflops"] / max(record["gemm_gflops"].values()))
            assert 0 < record["error_share_of_limit"] <= 1
            assert {"python", "numpy", "lstm_xp"} <= set(record["versions"])
            assert {"cpu", "cores", "date", "commit", "command", "load", "settings"} <= set(record["machine"])
    assert found["lstm_xp:array_api", "training"]["details"] == {"engine": "array_api"}


def test_who_is_wrong_gets_no_time(measured):
    done, _, records = measured
    found = by_name(records)
    assert done.returncode == 1
    assert "dWh is wrong" in found["wrong.py", "training"]["failed"]
    assert "median_s" not in found["wrong.py", "training"]
    assert found["wrong.py", "inference"]["failed"] is None
    assert "returned no dx" in found["lazy.py", "training"]["failed"]
    assert all("exit status 3" in found["crashing.py", what]["failed"] for what in WHATS)
    assert "dWh is wrong" in done.stdout


def test_who_is_not_installed_is_reported_as_absent(measured):
    done, _, records = measured
    (reason,) = records[0]["machine"]["absent"].values()
    assert "a_library_that_nobody_has" in reason
    assert "absent.py is left out" in done.stderr
    assert "a_library_that_nobody_has" in done.stdout


def test_kernels_are_the_machine_s_own(measured):
    pytest.importorskip("threadpoolctl")
    for pool in measured[2][0]["pools"]:
        assert pool.get("architecture") != "Nehalem"


def test_tables_are_printed(measured):
    lines = measured[0].stdout.splitlines()
    assert sum(line.startswith("1,5,4,6") for line in lines) == len(WHATS)
    assert any(line.startswith("one row at a time") for line in lines)
    assert any(line.startswith("matrix products by NumPy") for line in lines)


def test_the_report_goes_between_the_markers(measured, tmp_path):
    _, out, _ = measured
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- figures: begin -->\nold\n<!-- figures: end -->\nafter\n")
    for _ in range(2):
        done = benchmarks("report", out, "--into", readme)
        assert done.returncode == 0, done.stderr
    text = readme.read_text()
    assert text.startswith("before\n<!-- figures: begin -->\n")
    assert text.endswith("<!-- figures: end -->\nafter\n")
    assert "old" not in text
    assert text.count("**training (") == 1
    assert "python -m benchmarks --sizes 1,5,4,6" in text
    assert list(tmp_path.iterdir()) == [readme]


def test_growth_is_shown_by_doublings(measured, tmp_path):
    template = by_name(measured[2])["lstm_xp", "training"]
    sizes = [(N, 64, 128, 256) for N in (16, 32, 64, 128, 256)] + [(16, T, 128, 256) for T in (32, 64, 128, 256, 512)]
    records = []
    for N, T, D, H in dict.fromkeys(sizes):
        time = dict.fromkeys(("median_s", "q1_s", "q3_s"), (N * T) ** 0.5)
        records.append(template | {"N": N, "T": T, "D": D, "H": H, "size": f"{N},{T}"} | time)
    file = tmp_path / "growth.jsonl"
    file.write_text("\n".join(map(json.dumps, records)))
    text = benchmarks("report", file).stdout
    assert "growth with N, lstm_xp" in text
    assert "growth with T, lstm_xp" in text
    assert text.count("| 1.41 |") == 8


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--sizes", "1,2,3"], "four positive numbers"),
        (["--sizes", "1,2,3,0"], "four positive numbers"),
        (["--sizes", "huge"], "n64-h512"),
        (["--contenders", "nobody"], "torch_cpu"),
        (["--contenders", "lstm_xp:warp"], "numpy_fused"),
        (["--contenders", "nowhere.py"], "no file nowhere.py"),
        (["--rounds", "0"], "from 1 on"),
        (["--seconds", "nan"], "must be a number"),
        (["--what", "sleep"], "invalid choice"),
        (["--out", "nowhere/out.jsonl"], "cannot write"),
        (["--out", "README.md"], "exists"),
        (["report", "nowhere.jsonl"], "No such file"),
        (["report", "pyproject.toml"], "not a file of JSON lines"),
    ],
)
def test_a_bad_argument_is_one_line_and_status_2(arguments, complaint, tmp_path):
    (tmp_path / "README.md").write_text("x")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *(ROOT / a if a == "pyproject.toml" else a for a in arguments)],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert complaint in done.stderr
    assert done.stdout == ""


def test_help_names_sizes_and_contenders():
    done = benchmarks("--help")
    assert done.returncode == 0
    for word in ("n64-h512", "64,128,256,512", "lstm_xp:ENGINE", "torch_cpu", "report"):
        assert word in done.stdout


def test_results_without_markers_or_records_are_refused(tmp_path, measured):
    (tmp_path / "plain.md").write_text("no markers")
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    for arguments in (["report", measured[1], "--into", tmp_path / "plain.md"], ["report", tmp_path / "other.jsonl"]):
        done = benchmarks(*arguments)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert (tmp_path / "plain.md").read_text() == "no markers"
