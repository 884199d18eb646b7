"""The benchmarks: who is refused, what is recorded, what the report makes of the records. No time is judged."""

import json
import os
import re
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks import __main__ as command_line
from benchmarks import ours, problems, report, rivals, runner, timing
from benchmarks.comparison import Comparison
from benchmarks.tables import tables

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
    "raising.py": """
        from benchmarks import ours
        packages = ()
        class Contender(ours.Contender):
            def inference(self):
                raise RuntimeError("no memory left")
    """,
    "dying.py": """
        import os
        packages = ()
        class Contender:
            def __init__(self, problem, arrays, option):
                os._exit(3)
    """,
    "dying_later.py": """
        import os
        from benchmarks import ours
        packages = ()
        class Contender(ours.Contender):
            calls = 0
            def training(self):
                self.calls += 1
                return super().training() if self.calls == 1 else os._exit(4)
    """,
    "absent.py": """
        import a_library_that_nobody_has
    """,
}
WHATS = ("inference", "training", "step")
GOOD = ("lstm_xp", "lstm_xp:array_api", "numpy_loop")


def benchmarks(*arguments, **variables):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *map(str, arguments)],
        cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def records_of(file):
    return [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]


def by_name(records):
    return {(Path(record["contender"]).name, record["what"]): record for record in records}


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
    return done, out, records_of(out)


# A made-up run: seconds of each contender at each size, for whom and for what is asked.
SIZES = (1, 10, 3, 4), (8, 10, 3, 512)


def made_up(times, what="training", **more):
    machine = {
        "cpu": "A processor", "cores": 2, "load": 0.0, "system": "A system", "date": "2026-01-02T03:04:05+00:00",
        "commit": "abc", "settings": {}, "dropped": {}, "absent": {"keras": "keras is not installed"},
        "command": "python -m benchmarks --out made-up.jsonl",
    }  # fmt: skip
    records = []
    for contender, seconds in times.items():
        for (N, T, D, H), time in zip(SIZES, seconds, strict=True):
            record = {
                "contender": contender, "what": what, "size": f"{N},{T},{D},{H}", "N": N, "T": T, "D": D, "H": H,
                "dtype": "float32", "device": "cpu", "failed": None, "machine": machine, "rounding": None,
                "versions": {"python": "3"}, "pools": [], "gemm_pools": [], "gemm_gflops": {"a": 100.0},
            }  # fmt: skip
            if time is None:
                record["failed"] = "dx is wrong"
            else:
                share = {"share_of_gemm": 0.25, "us_per_step": 1e6 * time / T}
                record |= dict.fromkeys(("median_s", "q1_s", "q3_s"), time) | share
            records.append(record | more)
    return records


# Of keras, which is no judge, and of who is wrong or rounds more coarsely, nothing counts among the judges.
TIMES = {
    "lstm_xp": (1e-3, 2e-3),
    "lstm_xp:array_api": (4e-3, 4e-3),
    "torch_cpu": (2e-3, 16e-3),
    "jax_scan": (3e-3, 1e-3),
    "keras": (0.4e-3, 4e-3),
    "thinc": (None, None),
}


def run_of_all():
    coarse = made_up({"torch_cuda:tf32": (1e-9, 1e-9)}, rounding="float16")
    return made_up(TIMES) + coarse + made_up({"lstm_xp": (1, 1), "onnxruntime": (3, 0.5), "torch_cpu": (2, 2)}, "step")


def table(records, start):
    return next(one for one in tables(records) if one.title.startswith(start))


def write_records(file, records):
    file.write_text("\n".join(map(json.dumps, records)))
    return file


def test_ratios_means_and_worst_are_those_of_the_records():
    """Judges: 2 and 0.5, mean 1. Every rival: 0.4 (keras) and 0.5. Another engine: a quarter and a half of that."""
    summary = table(run_of_all(), "The best rival's time or memory").rows
    assert summary == [
        ["lstm_xp", "training", "torch_cpu, jax_scan", "2", "1.00", "0.50", "8,10,3,512"],
        ["lstm_xp", "training", "every rival", "2", "0.45", "0.40", "1,10,3,4"],
        ["lstm_xp", "step", "torch_cpu, onnxruntime", "2", "1.00", "0.50", "8,10,3,512"],
        ["lstm_xp", "step (H <= 256)", "torch_cpu, onnxruntime", "1", "2.00", "2.00", "1,10,3,4"],
        ["lstm_xp:array_api", "training", "torch_cpu, jax_scan", "2", "0.35", "0.25", "8,10,3,512"],
        ["lstm_xp:array_api", "training", "every rival", "2", "0.16", "0.10", "1,10,3,4"],
    ]
    assert table(run_of_all(), "The best rival's time over").rows == [
        ["1,10,3,4", "2.00 torch_cpu", "2.00 torch_cpu"],
        ["8,10,3,512", "0.50 jax_scan", "0.50 onnxruntime"],
    ]
    everybody = table(run_of_all(), "training (")
    assert everybody.header[1:] == [*list(TIMES)[1:], "torch_cuda:tf32", "onnxruntime"]
    assert everybody.rows[0] == ["geometric mean", "2.83", "4.00", "1.22", "0.89", "-", "0.00", "-"]
    assert everybody.rows[2] == ["8,10,3,512", "2.00", "8.00", "0.50", "2.00", "-", "0.00", "-"]


def test_without_judges_the_best_is_everybody_s():
    run = Comparison(made_up({"lstm_xp": (1, 1), "thinc": (3, 2), "keras": (2, None)}))
    assert run.judges("training") == ("thinc", "keras")
    assert [run.best("training", size) for size in SIZES] == [(2, "keras"), (2, "thinc")]
    assert table(run.records, "The best rival's time or memory").rows[0][3:5] == ["2", "2.00"]
    assert "1 of 2" in str(table(made_up({"lstm_xp": (1, 1), "keras": (2, None)}), "The best rival's time or").rows)


def test_who_is_alone_has_times_and_no_ratios():
    titles = [one.title for one in tables(made_up({"lstm_xp": (1, 1)}))]
    assert titles == [
        "training: ms (quartiles), share of the matrix-product rate",
        "one row at a time (N = 1): microseconds per time step",
    ]


def test_memory_and_start_are_reported():
    records = made_up({"lstm_xp": (1, 1), "torch_cpu": (1, 1)}, "memory", of="training")
    for record, peak in zip(records, (1e6, 2e6, 4e6, 4e6), strict=True):
        del record["median_s"]
        record["peak_bytes"] = peak
    assert table(records, "peak memory").rows == [
        ["training", "1,10,3,4", "1.0", "4.0", "4.00 torch_cpu"],
        ["training", "8,10,3,512", "2.0", "4.0", "2.00 torch_cpu"],
    ]
    assert table(records, "The best rival's time or memory").rows[0][1:6] == (
        ["memory training", "torch_cpu", "2", "2.83", "2.00"]
    )
    fresh = made_up({"lstm_xp": (1, 1)}, "start", import_s=0.25, first_result_s=0.5)
    assert table(fresh, "a fresh process").rows == [["import", "0.25"], ["import and first result", "0.50"]]


def growing():
    """Times that grow as the root of the work, twice of those for another contender."""
    sizes = dict.fromkeys(size for sizes in problems.GROWTH.values() for size in sizes)
    template = made_up({"lstm_xp": (1, 1)})[0]
    return [
        template | dict(zip("NTDH", size, strict=True))
        | {"contender": name, "what": what, "size": str(size), "us_per_step": factor}
        | dict.fromkeys(("median_s", "q1_s", "q3_s"), factor * (size[0] * size[1] * size[3] ** 2) ** 0.5)
        for factor, name in enumerate(("lstm_xp", "torch_cpu"), start=1)
        for what in ("inference", "training")
        for size in sizes
    ]  # fmt: skip


def test_growth_is_shown_by_doublings():
    for axis, sizes in problems.GROWTH.items():
        rows = table(growing(), f"growth with {axis}").rows
        assert [row[0] for row in rows] == ["inference"] * len(sizes) + ["training"] * len(sizes)
        for row in rows:
            factor = "x2.00" if axis[0] == "H" else "x1.41"
            first = row[1] == ",".join(map(str, sizes[0]))
            assert [cell.split()[1:] for cell in row[2:]] == 2 * [[] if first else [factor]]
    # Only doublings that are complete; what is left of others is shown like any size.
    part = [record for record in growing() if record["N"] == 1 and record["H"] < 1024]
    assert not any(one.title.startswith("growth") for one in tables(part))
    assert len(table(part, "training: ms").rows) == 5


def test_times_are_written_with_three_digits():
    records = made_up({"lstm_xp": (0.0123456, 1.5)})
    records[0] |= {"q1_s": 0.000012345, "q3_s": 0.000999, "share_of_gemm": 0.876}
    assert table(records, "training: ms").rows == [
        ["1,10,3,4", "12.3 (0.012-1.00) 88%"],
        ["8,10,3,512", "1500 (1500-1500) 25%"],
    ]


def test_every_contender_has_a_record_for_everything_it_does(measured):
    records = measured[2]
    found = by_name(records)
    assert len(found) == len(records)
    there = set(GOOD) | set(PLANTED) - {"absent.py"}
    assert set(found) == {(name, what) for name in there for what in WHATS}
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
            assert {"python", "numpy"} <= set(record["versions"])
            assert {"cpu", "cores", "date", "commit", "command", "load", "settings"} <= set(record["machine"])
    assert found["lstm_xp:array_api", "training"]["details"] == {"engine": "array_api"}


def test_frozen_weights_are_those_of_the_problem():
    problem = problems.Problem.of((3, 5, 4, 6), "float32", "cpu")
    plain, frozen = (ours.Contender(problem, problem.arrays(), option) for option in ("", ours.FROZEN))
    assert not any(weight.flags.writeable for weight in (*frozen.weights, *frozen.params[0][:3]))
    for what in problems.WHATS:
        if what != "step":
            expected = plain.named(what, getattr(plain, what)())
            for name, result in frozen.named(what, getattr(frozen, what)()).items():
                assert np.array_equal(result, expected[name]), (what, name)


def test_who_is_wrong_gets_no_time(measured):
    done, _, records = measured
    found = by_name(records)
    assert done.returncode == 1
    assert found["wrong.py", "training"]["failed"].startswith("dWh is wrong")
    assert found["wrong.py", "inference"]["failed"] is None
    assert found["lazy.py", "training"]["failed"] == "returned no dx"
    assert "no memory left" in found["raising.py", "inference"]["failed"]
    for record in records:
        assert ("median_s" in record) == (record["failed"] is None)
    assert "dWh is wrong" in done.stdout


def test_who_dies_takes_nobody_along(measured):
    found = by_name(measured[2])
    assert all("exit status 3" in found["dying.py", what]["failed"] for what in WHATS)
    # Killed by the second call: its process is gone, and what it did before that stays.
    assert found["dying_later.py", "inference"]["failed"] is None
    assert "exit status 4" in found["dying_later.py", "training"]["failed"]
    assert all(found[name, what]["failed"] is None for name in GOOD for what in WHATS)


def test_who_is_not_installed_is_reported_as_absent(measured):
    done, _, records = measured
    (reason,) = records[0]["machine"]["absent"].values()
    assert reason == "a_library_that_nobody_has is not installed"
    assert "absent.py is left out: a_library_that_nobody_has is not installed" in done.stderr
    assert "a_library_that_nobody_has" in done.stdout


def test_kernels_are_the_machine_s_own_and_what_was_set_is_recorded(measured):
    record = measured[2][0]
    assert record["machine"]["dropped"]["OPENBLAS_CORETYPE"] == "Nehalem"
    assert "taken out of the contenders' environment: OPENBLAS_CORETYPE=Nehalem" in measured[0].stdout
    if find_spec("threadpoolctl"):
        assert record["pools"]
        assert all(pool.get("architecture") != "Nehalem" for pool in record["pools"])


def test_progress_is_plain_where_there_is_no_terminal(measured):
    assert "times, 1 of 1: 1,5,4,6, after" in measured[0].stderr
    assert not re.search(r"[\r\033]", measured[0].stderr + measured[0].stdout)


def test_memory_and_start_come_from_processes_of_their_own(tmp_path):
    """The output takes 1 MiB; the loop keeps a hundred times the steps."""
    out = tmp_path / "out.jsonl"
    what = ["--what", "memory", "start", "--rounds", 1]
    done = benchmarks("--sizes", "1,2048,1,128", "small", "--rivals", "numpy_loop", *what, "--out", out)
    assert done.returncode == 0, done.stderr
    records = records_of(out)
    assert len(records) == 2 * 2 + 2
    peaks = {(r["contender"], r["of"]): r["peak_bytes"] for r in records if r["what"] == "memory"}
    assert set(peaks) == {(name, what) for name in ("lstm_xp", "numpy_loop") for what in problems.REMEMBERED}
    if sys.platform == "linux":
        # a (T, N, 4H), h and, for the gradients, gates, c and more: 2048 * 128 * 4 bytes = 1 MiB each.
        assert 2**20 < peaks["lstm_xp", "inference"] < peaks["lstm_xp", "training"] < 60 * 2**20
        assert 5 * 2**20 < peaks["numpy_loop", "training"] < 100 * 2**20
    for record in (record for record in records if record["what"] == "start"):
        assert 0 < record["import_s"] < record["first_result_s"]


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_keeps_what_was_measured(tmp_path):
    out = tmp_path / "out.jsonl"
    arguments = ["--sizes", "small", "--what", "inference", "--rivals", "--rounds", "1", "--seconds", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *arguments, "--out", str(out)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in process.stderr:
        if "times, 1 of 2" in line:
            break
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped" in stderr
    assert "Traceback" not in stderr
    assert {record["size"] for record in records_of(out)} == {"3,5,4,6"}
    assert "3,5,4,6" in stdout
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.skipif(find_spec("cupy") is not None, reason="CuPy is installed")
def test_a_gpu_that_is_not_there_is_one_line():
    done = benchmarks("--device", "cuda")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "python -m benchmarks: lstm_xp cannot run on the device cuda: cupy is not installed (see --help)\n"
    )


INSTALLED = [
    ("torch_cpu", "torch", ("inference", "forward", "training", "step")),
    ("jax_scan", "jax", ("inference", "forward", "training", "step")),
    ("onnxruntime", "onnxruntime", ("inference", "step")),
    ("thinc", "thinc", ("inference", "forward", "training")),
]


@pytest.fixture(scope="module")
def rival_runs():
    workers, absent = runner.start([name for name, *_ in INSTALLED] + ["torch_cuda"], "cpu", lambda text: None)
    yield {worker.name: worker for worker in workers}, absent
    for worker in workers:
        worker.close()


@pytest.fixture(scope="module")
def small_reference(tmp_path_factory):
    problem = problems.Problem.of((1, 7, 5, 3), "float32")
    file = tmp_path_factory.mktemp("reference") / "reference.npz"
    return problem, runner.reference_file(problem, problems.WHATS, file)


@pytest.mark.parametrize(("name", "library", "whats"), INSTALLED, ids=[name for name, *_ in INSTALLED])
def test_rivals_are_right_where_they_are_installed(name, library, whats, rival_runs, small_reference):
    workers, absent = rival_runs
    if find_spec(library) is None:
        assert absent[name] == f"{library} is not installed"
        pytest.skip(f"{library} is not installed")
    problem, reference = small_reference
    answer = workers[name].open(problem, list(problems.WHATS), reference)
    right = tuple(what for what in whats if (name, what) != ("thinc", "training"))
    assert tuple(answer["errors"]) == right
    assert set(answer["refused"]) == set(whats) - set(right)
    if name == "thinc":
        assert "is wrong" in answer["refused"]["training"]


def test_the_gpu_s_rival_says_why_it_stays_out(rival_runs):
    assert rival_runs[1]["torch_cuda"] in ("torch is not installed", "it runs on a GPU only (--device cuda)")
    assert rivals.names("cuda") == ("torch_cuda", "torch_cuda:graph", "torch_cuda:tf32", "torch_cuda:graph+tf32")


def test_the_eleven_sizes_are_there():
    sizes = "1,1000,32,32 1,100,64,64 1,100,128,256 1,64,512,1024 8,100,64,128 16,50,64,128 32,128,128,256"
    sizes += " 64,128,256,512 64,64,512,1024 256,32,128,128 128,64,1024,1024"
    assert set(sizes.split()) <= {",".join(map(str, size)) for size in problems.SIZES.values()}
    by_default = command_line.run_parser().parse_args([])
    assert (by_default.sizes, by_default.device, by_default.dtype) == (["standard"], "cpu", "float32")
    assert set(by_default.what) == {"inference", "forward", "training", "step", "memory", "start"}


def test_the_report_goes_between_the_markers(measured, tmp_path):
    _, out, _ = measured
    readme, results = tmp_path / "README.md", tmp_path / "results"
    results.mkdir()
    readme.write_text("before\n<!-- figures: begin -->\nold\n<!-- figures: end -->\nafter\n")
    for _ in range(2):
        assert command_line.main(["report", str(out), "--into", str(readme), "--folder", str(results)]) == 0
    text = readme.read_text()
    assert text.startswith("before\n<!-- figures: begin -->\n")
    assert text.endswith("<!-- figures: end -->\nafter\n")
    assert "old" not in text
    assert text.count("| lstm_xp | training | numpy_loop, ") == 1
    assert "python -m benchmarks --sizes 1,5,4,6" in text
    assert "[out.md](results/out.md)" in text
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert all((tmp_path / link).is_file() for link in links)
    whole = (results / "out.md").read_text()
    assert whole.count("**training (") == 1
    assert all((results / link).is_file() for link in re.findall(r"\]\(([^)]*)\)", whole))
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "results"}


def test_tables_go_to_stdout_without_a_folder(tmp_path, capsys):
    assert command_line.main(["report", str(write_records(tmp_path / "made-up.jsonl", run_of_all()))]) == 0
    text = capsys.readouterr().out
    assert "| lstm_xp | training | torch_cpu, jax_scan | 2 | 1.00 | 0.50 | 8,10,3,512 |" in text
    assert "not timed: thinc: dx is wrong (training at 1,10,3,4 8,10,3,512)" in text
    assert "left out: keras: keras is not installed" in text
    assert "rounds like float16" in text


def test_plots_are_small_and_the_same_for_the_same_records(tmp_path):
    pytest.importorskip("matplotlib")
    file = write_records(tmp_path / "made-up.jsonl", run_of_all() + growing())
    images = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        assert command_line.main(["report", str(file), "--folder", str(folder)]) == 0
        images.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert images[0] == images[1]
    plots = [f"made-up-{name}" for name in ("best-rival", "share", "time-per-step", "growth")]
    assert set(images[0]) == {"made-up.md"} | {f"{plot}.{kind}" for plot in plots for kind in ("svg", "png")}
    for name, content in images[0].items():
        if name.endswith(".svg"):
            assert len(content) < 150_000, name
            words = [element.text for element in ElementTree.fromstring(content).iter() if element.text]
            named = {"best-rival": "2.00", "share": "keras"}.get(name[8:-4], "torch_cpu")
            assert named in " ".join(words).split(), name
            assert not any(re.search(r"\d\d:\d\d:\d\d", word) for word in words)
        elif name.endswith(".png"):
            assert content.startswith(b"\x89PNG")


def test_without_matplotlib_the_tables_are_written_and_a_line_says_so(tmp_path, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "benchmarks.plots", raising=False)
    monkeypatch.delattr("benchmarks.plots", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    file = write_records(tmp_path / "made-up.jsonl", run_of_all())
    assert command_line.main(["report", str(file), "--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().err == "plots are left out: matplotlib is not installed (pip install matplotlib)\n"
    assert {path.name for path in tmp_path.iterdir()} == {"made-up.jsonl", "made-up.md"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--sizes", "1,2,3"], "four positive numbers"),
        (["--sizes", "1,2,3,0"], "four positive numbers"),
        (["--sizes", "huge"], "n64-h512"),
        (["--contenders", "nobody"], "torch_cpu"),
        (["--contenders", "lstm_xp:warp"], "numpy_fused"),
        (["--rivals", "torch_cuda:warp"], "torch_cuda:graph"),
        (["--contenders", "nowhere.py"], "no file nowhere.py"),
        (["--rounds", "0"], "from 1 on"),
        (["--seconds", "nan"], "must be a number"),
        (["--what", "sleep"], "invalid choice"),
        (["--what", "step", "--sizes", "2,3,4,5"], "nothing to measure"),
        (["--what", "memory", "--sizes", "2,3,4,5"], "1 MiB or more"),
        (["--out", "nowhere/out.jsonl"], "cannot write"),
        (["--out", "README.md"], "exists"),
        (["report", "nowhere.jsonl"], "No such file"),
        (["report", "README.md"], "not a file of JSON lines"),
        (["report", "other.jsonl"], "holds no benchmark records"),
        (["report", "made-up.jsonl", "--folder", "nowhere"], "no folder nowhere"),
        (["report", "made-up.jsonl", "./made-up.jsonl"], "one name"),
        (["report", "made-up.jsonl", "--into", "README.md"], "has no lines"),
    ],
)
def test_a_bad_argument_is_one_line_and_status_2(arguments, complaint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("README.md").write_text("no markers")
    Path("other.jsonl").write_text('{"a": 1}\n')
    write_records(Path("made-up.jsonl"), run_of_all())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    try:
        status = command_line.main(arguments)
    except SystemExit as exit:
        status = exit.code
    told = capsys.readouterr()
    assert (status, told.out) == (2, "")
    assert len(told.err.splitlines()) == 1
    assert complaint in told.err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_help_teaches():
    done = benchmarks("--help")
    assert done.returncode == 0
    for word in ("n64-h512", "64,128,256,512", "lstm_xp:ENGINE", "numpy_fused", "torch_cpu", "report", "examples:"):
        assert word in done.stdout
    assert report.BEGIN in benchmarks("report", "--help").stdout


# --- Turns


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_everybody_has_every_place_equally_often(count):
    workers = list(range(count))
    orders = list(runner.orders(workers, 2 * count))
    assert all(sorted(order) == workers for order in orders)
    for worker in workers:
        places = sorted(order.index(worker) for order in orders)
        assert places == sorted(2 * workers)


@pytest.mark.parametrize(("spins", "looks"), [(0, 1), (3, 4), (10**9, round(timing.PATIENCE / timing.LOOK))])
def test_a_process_rests_when_its_threads_sleep(monkeypatch, spins, looks):
    taken = []

    def sleep(seconds):
        taken.append(seconds)

    monkeypatch.setattr(timing, "sleep", sleep)
    monkeypatch.setattr(timing, "perf_counter", lambda: sum(taken))
    monkeypatch.setattr(timing, "process_time", lambda: sum(taken[:spins]))
    timing.rest()
    assert len(taken) == pytest.approx(looks, abs=looks // 50)  # sums of many floats


def test_a_turn_ends_with_a_rest(monkeypatch):
    events = []
    monkeypatch.setattr(timing, "rest", lambda: events.append("rest"))
    assert len(timing.times(lambda: events.append("call"), 0)) == timing.FEWEST_CALLS
    assert events == ["call"] * (1 + timing.FEWEST_CALLS) + ["rest"]
