"""What the programme for a GPU asks of CuPy, NVRTC and compute-sanitizer: on a stand-in, and by compiling."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import nvrtc as compiler
import pytest
from cupy_stand_in import StandIn

from benchmarks.gpu import (
    ceilings,
    compiling,
    correctness,
    environment,
    latencies,
    sanitizer,
    sizes,
    timing,
    worker,
)
from benchmarks.gpu.places import Cuda, Host, NoDevice
from lstm_xp import engines
from lstm_xp.engines.cuda import cluster_plan, grid, pointwise, step_launches

ROOT = Path(__file__).resolve().parent.parent

# What is asked of CuPy, on a stand-in: its names, NumPy's arrays


@pytest.fixture
def stand_in(monkeypatch):
    def install(**options):
        made = StandIn(**options)
        monkeypatch.setitem(sys.modules, "cupy", made.cupy)
        monkeypatch.setitem(sys.modules, "cupy.cuda", made.cuda)
        monkeypatch.setitem(sys.modules, "cupy_backends.cuda.api", SimpleNamespace(driver=made.driver))
        latencies._module.cache_clear()
        return made

    yield install
    latencies._module.cache_clear()


def test_every_latency_launches_what_it_measures(stand_in):
    made, place = stand_in(), Cuda()
    for unit in latencies.units(place):
        made.launched.clear()
        record = latencies.run(unit, place)[0]
        assert np.isfinite(record["microseconds"]), unit
        names = {name for name, *_ in made.launched}
        expected = {"launch": "nothing", "graph edge": "nothing", "grid barrier": "grid_barrier"}
        assert names == {expected.get(unit["latency"], unit["latency"])}
        for name, (blocks,), (threads,), arguments in made.launched:
            assert blocks == {"nothing": 1, "grid_barrier": 4}.get(name) or f"<{blocks}>" in name
            # A cluster of one warp each, as the kernel says; the counter of a barrier starts at 0.
            assert threads == (128 if name == "grid_barrier" else 32)
            assert len(arguments) == {"nothing": 0, "grid_barrier": 3}.get(name, 1 + name.startswith("cluster_push"))
            if arguments:
                assert arguments[-1] in (latencies.SHORT, latencies.LONG)
    # Nothing larger than 8 may be launched without being allowed.
    assert {name for name, *_ in made.non_portable} == {"cluster_barrier<16>", "cluster_push<16>"}


def test_a_message_that_is_lost_gives_no_figure(stand_in, monkeypatch):
    made, place = stand_in(), Cuda()
    monkeypatch.setattr(np, "zeros", np.ones)
    record = latencies.run({"latency": "cluster_push<2>"}, place)[0]
    assert "waited in vain" in record["failed"]
    assert made.launched


def test_a_gpu_without_clusters_says_so(stand_in):
    stand_in(capability="89")
    found = latencies.run({"latency": "cluster_barrier<4>"}, Cuda())[0]
    assert found == {"refused": "clusters need compute capability 9.0, this device has 8.9"}
    assert "microseconds" in latencies.run({"latency": "grid barrier"}, Cuda())[0]


def test_a_slope_is_the_time_of_one_more_step():
    clock = SimpleNamespace(now=0.0)

    class Event:
        def record(self):
            self.time = clock.now

        def synchronize(self):
            pass

    place = SimpleNamespace(events=lambda: (Event(), Event()), between=lambda a, b: b.time - a.time)

    def call_of(steps):
        def call():
            clock.now += 7.0 + steps * 3e-6  # what a run costs once takes no part

        return call

    assert latencies.slope(call_of, place) == pytest.approx(3.0, rel=1e-6)


def test_correctness_runs_as_on_a_device(stand_in):
    made, place = stand_in(), Cuda()
    unit = {"size": [3, 2, 1, 7], "engine": "array_api", "kind": "float32"}
    record = correctness.run(unit, place)[0]
    assert record["poisoned"] is True
    assert 0 < record["share"] <= 1
    assert made.made == 3
    assert {u["engine"] for u in correctness.units(place)} == set(engines.candidates("cupy"))
    made.pools = False
    assert correctness.run(unit, place)[0]["poisoned"] is False


def test_the_environment_names_what_it_can_find_out(stand_in):
    stand_in()
    (found,) = environment.run({}, Cuda())
    assert (found["GPU"], found["SMs"], found["compute capability"]) == ("stand-in", 4, "90")
    assert found["NVRTC"].startswith("unknown (")  # the stand-in has none
    assert "GPU stand-in" in environment.line(found)
    json.dumps(found)


def test_ceilings_are_rates(stand_in, monkeypatch):
    stand_in()
    place = Cuda()
    monkeypatch.setattr(Cuda, "cube", 64)
    monkeypatch.setattr(Cuda, "copied", 2**20)
    monkeypatch.setattr(
        Cuda, "product", lambda self, A, B, out, kind: lambda: np.matmul(A, B, out=out, casting="unsafe")
    )
    for unit in ceilings.units(place):
        if unit["ceiling"] == "bfloat16" and not find_spec("ml_dtypes"):
            continue
        (record,) = ceilings.run(unit, place)
        assert record["value"] > 0
        assert record["unit"] == ("GB/s" if unit["ceiling"] == "copy" else "Tflop/s")


def test_errors_of_the_device_end_the_process_and_others_do_not(stand_in):
    made = stand_in()
    part = SimpleNamespace(run=lambda unit, place: (_ for _ in ()).throw(unit["error"]))
    broken = made.cuda.runtime.CUDARuntimeError("cudaErrorIllegalAddress")
    assert worker.answer(part, {"error": broken}, Cuda())["broken"]
    assert worker.answer(part, {"error": RuntimeError("CUDA error: an illegal memory access")}, Cuda())["broken"]
    assert not worker.answer(part, {"error": MemoryError("out of memory")}, Cuda())["broken"]
    assert worker.answer(part, {"error": NoDevice("none")}, Cuda())["missing"]
    # Correctness counts what an engine raises as wrong, but hands on what breaks the device.
    place = Cuda()
    with pytest.raises(type(broken)):
        timing.in_rounds({"x": lambda: (_ for _ in ()).throw(broken)}, place, 1, 0)


# Compiling ahead


def test_everything_is_compiled_ahead():
    found = compiling.tasks(Cuda())
    for what in ("run", "prove"):
        problems = {tuple(task[2:]) for task in found if task[0] == what}
        assert problems == {(name, kind) for name in engines.candidates("cupy") for kind in sizes.KINDS}
    assert {task[3] for task in found if task[0] == "compare"} == set(sizes.KINDS)
    files = {task[1]: task[4] for task in found if task[0] == "kernel"}
    assert files == {cluster_plan.FILES: False, grid.FILES: True, step_launches.FILES: False, pointwise.FILES: False}
    assert len(found) > 100


def test_what_cannot_be_compiled_is_said():
    (record, *failed) = compiling.run({}, Host())
    assert record["tasks"] == 3
    assert not failed
    assert compiling.do(["kernel", ("no such file",), "kernel"])


# compute-sanitizer


def test_every_tool_watches_every_engine(monkeypatch):
    """With a script in its place that says which one it was asked for."""
    monkeypatch.setattr(sanitizer, "watch", lambda place, engine, tool: {"clean": f"{tool} of {engine}"})
    found = sanitizer.run({}, Cuda())
    names = [name for name in engines.candidates("cupy") if name != "array_api"]
    assert {(record["engine"], record["tool"]) for record in found} == {
        (name, tool) for name in names for tool in sanitizer.TOOLS
    }
    assert all(record["clean"] == f"{record['tool']} of {record['engine']}" for record in found)


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("echo 8 problems; echo ERROR SUMMARY: 0 errors", {"clean": "8 problems"}),
        ("sleep 60", {"refused": "took longer than 1 s"}),
        ("echo Invalid __global__ read; sleep 60", "compute-sanitizer found some errors"),
    ],
)
def test_a_tool_that_takes_too_long_is_left(tmp_path, monkeypatch, script, found):
    command = tmp_path / "compute-sanitizer"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    monkeypatch.setattr(sanitizer, "binary", lambda: str(command))
    monkeypatch.setattr(sanitizer, "SECONDS", 1)
    record = sanitizer.watch(Cuda(), "cupy_fused", "memcheck")
    assert found in (record, record.get("wrong"))


@pytest.mark.parametrize(
    ("status", "output", "key"),
    [
        (0, "cupy_fused: 8 problems\n========= ERROR SUMMARY: 0 errors", "clean"),
        (0, "cupy_fused: 8 problems\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)", "clean"),
        (86, "========= Invalid __global__ read of size 4 bytes\n========= ERROR SUMMARY: 1 error", "wrong"),
        (86, "========= RACECHECK SUMMARY: 3 hazards displayed (3 errors, 0 warnings)", "wrong"),
        (86, "cupy_fused: 8 problems\n========= ERROR SUMMARY: 2 errors", "wrong"),
        (86, "Failed to initialize X\n========= Invalid __shared__ write\n========= ERROR SUMMARY: 1 error", "wrong"),
        (86, "========= Error: Device not supported\n========= ERROR SUMMARY: 3 errors", "refused"),
        (1, "Traceback (most recent call last)", "refused"),
        (0, "========= ERROR SUMMARY: 0 errors", "refused"),  # nothing ran
        (0, "cupy_fused: 8 problems", "refused"),  # nobody watched
    ],
)
def test_what_compute_sanitizer_says(status, output, key):
    found = sanitizer.verdict(status, output)
    assert [name for name in ("clean", "wrong", "refused") if name in found] == [key]


def test_what_it_watches_runs():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu.tiny", "numpy_fused", "cpu"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("numpy_fused: ")
    assert sanitizer.verdict(0, done.stdout + "ERROR SUMMARY: 0 errors")["clean"]


# The kernels that measure latencies


@pytest.mark.parametrize("architecture", [75, 80, 86, 89, 90, 100, 120])
def test_the_kernels_compile(nvrtc, architecture):
    if architecture not in compiler.architectures(nvrtc):
        pytest.skip(f"NVRTC does not compile for {architecture}")
    names = latencies.EVERYWHERE + (latencies.CLUSTERS if architecture >= latencies.HAS_CLUSTERS else ())
    source = latencies.SOURCE.read_text(encoding="utf-8")
    options = (*latencies.OPTIONS, "-ftz=true")
    _, resources, log, _ = compiler.compile(nvrtc, source, names, f"sm_{architecture}", options)
    assert set(resources) == set(names)
    assert all(used.spilled == used.stack == 0 for used in resources.values())
    assert "warning" not in log
    ptx, _, _, lowered = compiler.compile(nvrtc, source, names, f"compute_{architecture}", options)
    for name in set(names) & set(latencies.CLUSTERS):
        size = name.partition("<")[2].rstrip(">")
        code = ptx[ptx.index(f".entry {lowered[name]}(") :]
        assert f".reqnctapercluster {size}, 1, 1" in code[: code.index("{")]
