"""The programme for a GPU (benchmarks/gpu): sizes, budget, processes and report.

Without a GPU; its parts are tested in test_gpu_parts.py and test_gpu_calls.py.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from test_gpu_script import has_device

from benchmarks import records, runner
from benchmarks.gpu import __main__ as command_line
from benchmarks.gpu import correctness, programme, ratios, report, sizes, timed, verdict
from benchmarks.gpu.places import Host, dtype_of
from lstm_xp import testing
from lstm_xp.checks import PRECISIONS
from lstm_xp.libraries import DTYPES

ROOT = Path(__file__).resolve().parent.parent
HOST = Host()

# Sizes


def test_awkward_shapes_cover_the_axes():
    assert 24 <= len(sizes.AWKWARD) <= 30
    assert len(set(sizes.AWKWARD)) == len(sizes.AWKWARD)
    N, T, D, H = map(set, zip(*sizes.AWKWARD, strict=True))
    assert N == {1, 3, 7, 33, 256}
    assert T == {1, 2, 33}
    assert H == {64, 100, 129, 192, 512, 1000, 2048}
    assert 1 in D
    assert {(T, H) for _, T, _, H in sizes.AWKWARD} == {(t, h) for t in T for h in H}
    assert {(N, T) for N, T, _, _ in sizes.AWKWARD} == {(n, t) for n in N for t in T}


def test_the_grid_has_some_forty_shapes_and_starts_with_one_of_each_class():
    grid = sizes.grid()
    assert len(grid) == len(set(grid)) == 41
    assert set(grid) == {size for each in sizes.CLASSES.values() for size in each}
    assert {sizes.class_of(size) for size in grid[: len(sizes.CLASSES)]} == set(sizes.CLASSES)


def test_every_shape_is_in_the_class_it_is_listed_in():
    for name, each in sizes.CLASSES.items():
        assert {sizes.class_of(size) for size in each} == {name}
    assert sizes.class_of((64, 1, 1, 1024)) == "512 < H <= 1024, N <= 64"
    assert sizes.class_of((65, 1, 1, 1024)) == "192 < H <= 1024, N > 64"


def test_kinds_are_dtypes_and_precisions_that_there_are():
    for kind, (dtype, precision, rounding) in sizes.KINDS.items():
        assert dtype in DTYPES
        assert precision in PRECISIONS
        if dtype != "bfloat16" or find_spec("ml_dtypes"):
            assert dtype_of(kind).name == dtype
        assert testing.limit(rounding) > 0
    assert set(sizes.TIMED_KINDS) == set(sizes.KINDS) - {"float64"}


# The budget, with a clock that only moves when it is told to


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_every_part_has_its_share_of_what_is_left():
    clock = Clock()
    budget = programme.Budget(100, programme.SHARES, clock)
    shares, total = dict(programme.SHARES), sum(programme.SHARES.values())
    first, *others = shares
    assert budget.part(first) - clock.now == pytest.approx(100 * shares[first] / total)
    # It took nothing: all of the time goes to the others.
    for name in others[:-1]:
        budget.part(name)
    assert budget.part(others[-1]) == pytest.approx(200)
    clock.now = 250
    assert budget.left() == 0


class FakeProcess:
    """A part's process in which every piece of work takes so long, or does what `does` says."""

    clock, seconds, does, log = None, 1.0, {}, None

    def __init__(self, name, device):
        self.name, self.asked = name, 0
        self.log.append(("start", name))

    def ask(self, unit, seconds):
        FakeProcess.clock.now += self.seconds
        does = self.does.get((self.name, len([entry for entry in self.log if entry == ("ask", self.name)])))
        self.log.append(("ask", self.name))
        if isinstance(does, BaseException):
            raise does
        return does or {"records": [{"share": 0.5}]}

    def close(self):
        self.log.append(("close", self.name))


@pytest.fixture
def fake(monkeypatch):
    clock = Clock()
    for name, value in {"clock": clock, "seconds": 1.0, "does": {}, "log": []}.items():
        monkeypatch.setattr(FakeProcess, name, value)
    return FakeProcess


def run_fake(fake, seconds, parts=("correctness", "sanitizer"), place=HOST):
    written, said = [], []

    def write(result):
        written.append(json.loads(json.dumps(result)))

    result = programme.run(place, parts, seconds, write, said.append, fake.clock, fake)
    return result, written, said


def test_a_part_ends_with_its_share_and_says_what_it_left_out(fake):
    result, written, _ = run_fake(fake, 20)
    part, units = result["parts"]["correctness"], correctness.units(HOST)
    assert part["units"] == len(units)
    assert 0 < part["done"] < len(units)
    assert part["done"] + len(part["out_of_time"]) == len(units)
    assert part["out_of_time"] == units[part["done"] :]
    assert result["parts"]["sanitizer"]["done"] > 0
    assert fake.clock.now - 100 <= 20 + 3  # a piece of work that was begun is done
    assert written[-1] == json.loads(json.dumps(result))
    assert verdict.unfinished(result)["correctness"] == len(part["out_of_time"])
    assert fake.log.count(("start", "correctness")) == fake.log.count(("close", "correctness")) == 1


def test_what_was_measured_is_written_all_along(fake):
    _, written, _ = run_fake(fake, 1000)
    counts = [len(result["records"]) for result in written]
    assert counts == sorted(counts)
    assert max(np.diff(counts)) <= 4  # every 2 s, and each takes 1 s


def test_a_process_that_dies_is_replaced_and_its_work_recorded_as_failed(fake):
    fake.does[("correctness", 1)] = runner.Failed("its process ended with exit status -11")
    fake.does[("correctness", 3)] = {"failed": "CUDARuntimeError: illegal address", "broken": True}
    fake.does[("correctness", 5)] = {"failed": "MemoryError: too large", "broken": False}
    result, _, said = run_fake(fake, 1000)
    failed = [record["failed"] for record in result["records"] if record.get("failed")]
    assert failed == [fake.does[key].args[0] if isinstance(fake.does[key], Exception) else fake.does[key]["failed"]
                      for key in fake.does]  # fmt: skip
    assert fake.log.count(("start", "correctness")) == 3
    assert result["parts"]["correctness"]["done"] == len(correctness.units(HOST))
    assert sum("illegal address" in line for line in said) == 1
    assert verdict.exit_status(result) == 0
    assert len(verdict.unmeasured(result)) == 3


def test_a_piece_of_work_that_hangs_does_not_take_the_others_time(fake, monkeypatch):
    """The first of a process has longer, for libraries are loaded; none has longer than what is left."""
    fake.does["correctness", 2] = runner.Failed("out of time")
    given = {}
    original = fake.ask

    def record(self, unit, seconds):
        given.setdefault(self.name, []).append(seconds)
        return original(self, unit, seconds)

    monkeypatch.setattr(fake, "ask", record)
    run_fake(fake, 1e5)
    assert given["correctness"][:5] == [
        programme.FIRST,
        programme.LATER,
        programme.LATER,
        programme.FIRST,
        programme.LATER,
    ]
    assert given["sanitizer"] == [programme.FIRST]
    given.clear()
    run_fake(fake, 20)
    assert all(seconds <= 20 + programme.GRACE for part in given.values() for seconds in part)


def test_what_breaks_the_device_is_tried_again_without_torchs_graph(fake):
    first, second = timed.ENGINES.units(HOST)[:2]
    fake.does["engines", 0] = {"failed": "CUDA error: capture", "broken": True}
    result, _, _ = run_fake(fake, 1000, ["engines"])
    found = [record for record in result["records"] if record["part"] == "engines"]
    assert [record.get("failed") for record in found[:3]] == ["CUDA error: capture", None, None]
    assert found[1] == {"part": "engines", **first, "mode": "eager", "share": 0.5}
    assert found[2] == {"part": "engines", **second, "share": 0.5}
    counts = result["parts"]["engines"]
    assert counts["units"] == counts["done"] == len(timed.ENGINES.units(HOST)) + 1
    assert timed.ENGINES.smaller(first | {"mode": "eager"}) is None
    assert timed.RIVALS.smaller(timed.RIVALS.units(HOST)[0])["mode"] == "eager"


def test_without_a_device_nothing_is_started_after_the_environment(fake):
    fake.does[("environment", 0)] = {"failed": "no CUDA device: there is none", "missing": True}
    with pytest.raises(programme.Missing, match="there is none"):
        run_fake(fake, 1000)
    assert fake.log == [("start", "environment"), ("ask", "environment"), ("close", "environment")]


def test_the_file_survives_ctrl_c(fake):
    fake.does[("correctness", 4)] = KeyboardInterrupt()
    written = []
    with pytest.raises(KeyboardInterrupt):
        programme.run(
            HOST, ["correctness"], 100, lambda r: written.append(dict(r)), lambda text: None, fake.clock, fake
        )
    assert written[-1]["interrupted"]
    assert len(written[-1]["records"]) == 1 + 4
    assert fake.log[-1] == ("close", "correctness")


# Processes, for real


def test_a_piece_of_work_that_takes_too_long_is_ended():
    process = programme.Process("correctness", "cpu")
    try:
        unit = {"size": [64, 3000, 8, 300], "engine": "array_api", "kind": "float64"}
        with pytest.raises(runner.Failed, match="out of time"):
            process.ask(unit, 0.5)
    finally:
        process.close()


def test_what_a_process_has_started_ends_with_it():
    process = programme.Process("correctness", "cpu")
    group = process.process.pid
    assert os.getpgid(group) == group != os.getpgid(0)
    process.close()
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)


def test_a_process_that_ends_by_itself_says_how():
    process = programme.Process("no such part", "cpu")
    try:
        with pytest.raises(runner.Failed, match="ended with exit status 1"):
            process.ask({}, 60)
    finally:
        process.close()


def gpu(*arguments):
    # One thread: another one may find the other core busy.
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *map(str, arguments)],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_the_rehearsal_runs_every_part(tmp_path):
    file = tmp_path / "rehearsal.json"
    done = gpu("--rehearse", "--seconds", 120, "--out", file)
    assert done.returncode == 0, done.stderr
    result = programme.read(file)
    assert list(result["parts"]) == list(programme.DEFAULT)
    assert not verdict.unfinished(result)
    assert not verdict.wrong(result)
    assert "A rehearsal on a CPU: no figure here means anything." in done.stdout
    passed = [record for record in result["records"] if record["part"] == "correctness" and "share" in record]
    found = {(record["engine"], record["kind"]) for record in passed}
    assert {("array_api", kind) for kind in ("reference", "float32", "float16", "float64")} <= found
    # The file must not be written over.
    again = gpu("--rehearse", "--out", file)
    assert again.returncode == 2
    assert "exists" in again.stderr
    # And its report.
    done = gpu("report", file, "--folder", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "| float32 |" in (tmp_path / "rehearsal.md").read_text()


def test_without_a_device_there_is_one_line_and_exit_status_2(tmp_path):
    if has_device():
        pytest.skip("there is a device")
    done = gpu("--out", tmp_path / "gpu.json")
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert line.startswith("python -m benchmarks.gpu: no CUDA device: CuPy ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "gpu.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "0"], "seconds from 1 on"),
        (["--parts", "speed"], "invalid choice"),
        (["--out", "no/such/folder/x.json"], "cannot write"),
        (["report", "no.json"], "No such file"),
    ],
)
def test_bad_arguments_give_one_line(arguments, message, capsys):
    try:
        status = command_line.main(arguments)
    except SystemExit as end:  # argparse's way
        status = end.code
    assert status == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


# The report, from a record that is made up


def timed_record(part, size, kind, contender, what, microseconds, share=0.5):
    T = size[1]
    return {"part": part, "size": list(size), "kind": kind, "contender": contender, "what": what,
            "median_s": microseconds * T / 1e6, "us_per_step": microseconds, "share_of_limit": share}  # fmt: skip


def made_up():
    """A result that nobody measured. Figures are chosen to be recognised."""

    small, large = (64, 256, 64, 64), (64, 128, 512, 512)
    found = [
        {"part": "environment", "place": "cuda", "GPU": "MADE UP", "SMs": 132},
        {"part": "ceilings", "ceiling": "copy", "value": 4321.4, "unit": "GB/s"},
        {"part": "latencies", "latency": "graph edge", "microseconds": 1.2345},
        {"part": "correctness", "size": [1, 2, 3, 4], "engine": "made_up", "kind": "tf32", "share": 0.25,
         "worst": "dWh", "poisoned": True},
        {"part": "correctness", "size": [2, 2, 3, 4], "engine": "made_up", "kind": "tf32", "wrong": "h is wrong"},
        {"part": "sanitizer", "engine": "made_up", "tool": "memcheck", "refused": "compute-sanitizer is not installed"},
        {"part": "rivals", "size": list(small), "kind": "float16", "mode": "graph", "failed": "out of time"},
    ]  # fmt: skip
    for size, ours, eager, graph in ((small, 2.0, 4.0, 3.0), (large, 8.0, 4.0, 6.0)):
        found += [
            timed_record("engines", size, "tf32", "made_up", "inference", ours),
            timed_record("engines", size, "tf32", "torch eager", "inference", eager, 1.5),
            timed_record("engines", size, "tf32", "torch graph", "inference", graph),
            timed_record("rivals", size, "tf32", "torch eager", "inference", eager + 0.25),
        ]
    found += [timed_record("engines", small, "tf32", "another", "inference", 1.0)]
    machine = {"cpu": "made up", "cores": 1, "commit": "0", "date": "never"}
    parts = {"correctness": {"units": 3, "done": 2, "seconds": 1.0, "out_of_time": [{"size": [3, 3, 3, 3]}]}}
    return {"format": programme.FORMAT, "rehearsal": False, "seconds": 1, "machine": machine, "command": "made up",
            "parts": parts, "records": found}  # fmt: skip


def test_the_report_has_the_figures():
    text = report.markdown(made_up())
    for line in (
        "| copy | 4321 GB/s |",
        "| graph edge | 1.234 |",
        "| made_up | tf32 | 1 of 2 | 1 | 0.25 (dWh at 1,2,3,4) | 1 |  |",
        "| made_up | memcheck | not checked: compute-sanitizer is not installed |",
        "WRONG: correctness made_up tf32 2,2,3,4: h is wrong",
        "out of time: 1 pieces of correctness",
        "not measured: out of time (1 times, first: rivals float16 64,256,64,64)",
        "GPU MADE UP; SMs 132",
        # torch eager's error is beyond the limit: a star.
        "| 64,256,64,64 | 2.00 | 1.00 | 4.00* | 3.00 |",
        "| inference | tf32 | torch eager | 1 of 2 | 64,128,512,512 (0.50) |",
        "took correctness 1 s",
    ):
        assert line in text, line
    assert "rehearsal" not in text
    assert text.index("the best of ours at each shape") < text.index("Ceilings")
    best, each = (
        {tuple(row[:3]): row[3:] for row in table(made_up(), "inference").rows}
        for table in (ratios.best, ratios.classes)
    )
    # At the small shape another engine is the quickest.
    found = best[ratios.BEST, "tf32", "torch graph"]
    assert (found[0], found[2]) == ("3.00 / 3.00 (1)", "0.75 / 0.75 (1)")
    assert found[-2:] == ["1.50 / 0.75 (2)", "64,128,512,512"]
    found = each["made_up", "tf32", "torch graph"]
    assert (found[0], found[2]) == ("1.50 / 1.50 (1)", "0.75 / 0.75 (1)")
    assert found[-2:] == ["1.06 / 0.75 (2)", "64,128,512,512"]
    assert each["made_up", "tf32", "torch eager"][-2] == "1.00 / 0.50 (2)"
    assert verdict.exit_status(made_up()) == 1


def test_calls_in_a_graph_are_compared_with_each_other():
    result = made_up()
    result["records"] += [timed_record("engines", (64, 256, 64, 64), "tf32", "made_up recorded", "inference", 1.5)]
    best, each = (
        {tuple(row[:3]): row[3] for row in make(result, "inference").rows} for make in (ratios.best, ratios.classes)
    )
    assert best[ratios.BEST, "tf32", "torch graph"] == "2.00 / 2.00 (1)"
    assert best[ratios.BEST, "tf32", "torch eager"] == "4.00 / 4.00 (1)"
    assert each["made_up recorded", "tf32", "torch graph"] == "2.00 / 2.00 (1)"
    assert ("made_up recorded", "tf32", "torch eager") not in each
    # Where none of ours was recorded, as they were called.
    assert each["made_up", "tf32", "torch graph"] == "-"


def test_the_plot_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    assert report.draw(made_up(), tmp_path / "plot.svg")
    assert "tf32, against torch graph" in (tmp_path / "plot.svg").read_text()
    assert not report.draw(made_up() | {"records": []}, tmp_path / "none.svg")
    assert not (tmp_path / "none.svg").exists()


def test_the_format_goes_there_and_back(tmp_path):
    file = tmp_path / "gpu.json"
    programme.write(file, made_up())
    assert programme.read(file) == made_up()
    for content, message in (("[]", "its format is not"), ("{", "not JSON"), ('{"format": "x"}', "its format is not")):
        file.write_text(content)
        with pytest.raises(records.BadFile, match=message):
            programme.read(file)


def test_exit_statuses():
    right = made_up()
    right["records"] = [record for record in right["records"] if "wrong" not in record]
    assert verdict.exit_status(right) == 0
    slow = right | {
        "records": [r | ({"median_s": 1e3} if r.get("contender") == "made_up" else {}) for r in right["records"]]
    }
    assert verdict.exit_status(slow) == 0
    unproved = right | {"records": [record for record in right["records"] if record["part"] != "correctness"]}
    assert verdict.exit_status(unproved) == 3
    assert verdict.exit_status(unproved | {"parts": {"rivals": {"out_of_time": []}}}) == 0


def test_a_failure_of_the_programme_is_not_taken_for_a_wrong_number(monkeypatch, capsys):
    monkeypatch.setattr(programme, "run", lambda *arguments: 1 / 0)
    assert command_line.main(["--rehearse"]) == 3
    assert "ZeroDivisionError" in capsys.readouterr().err
