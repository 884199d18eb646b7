"""The choice among the engines for CuPy by what was measured: the table, what it says, the command that makes it."""

import json

import pytest
from on_fake import forget, machine_of
from test_cupy_grid import problem

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import programme
from lstm_xp import engines
from lstm_xp.engines.cuda import choice

DEVICE = "NVIDIA Test"
# kind, what, (N, T, D, H) -> seconds.
TIMES = {
    ("tf32", "training", (8, 64, 512, 512)): {"cupy_grid": 1.0, "cupy_step": 2.0, "cupy_fused": 3.0},
    ("tf32", "training", (256, 64, 512, 512)): {"cupy_grid": 3.0, "cupy_step": 2.0, "torch eager": 1.0},
    ("tf32", "inference", (8, 64, 512, 512)): {"cupy_grid": 2.0, "cupy_step": 1.0},
    ("bfloat16", "training", (8, 64, 2048, 2048)): {"cupy_grid": 1.0, "cupy_step": 2.0},
}


def result(times=TIMES, **options):
    environment = {"part": "environment", "GPU": DEVICE, "compute capability": "90", "SMs": 7}
    found = [environment, {"part": "correctness", "engine": "cupy_grid", "share": 0.5}]
    for (kind, what, size), taken in times.items():
        share = {"part": "engines", "size": list(size), "kind": kind, "what": what}
        found += [{**share, "contender": name, "median_s": seconds} for name, seconds in taken.items()]
    return {"format": programme.FORMAT, "rehearsal": False, "machine": {"commit": "abc"}, "records": found, **options}


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A table by the command, in place of the package's."""

    def make(*found):
        files, table = [tmp_path / f"gpu{n}.json" for n in range(len(found))], tmp_path / "measured.json"
        for file, each in zip(files, found, strict=True):
            file.write_text(json.dumps(each))
        status = command.main(["choice", *map(str, files), "--into", str(table)])
        monkeypatch.setattr(choice, "FILE", table)
        choice.forget()
        return status, table

    yield make
    choice.forget()


@pytest.fixture
def machine(monkeypatch):
    yield machine_of(monkeypatch)
    forget()


def chosen(machine, **options):
    return engines.choose("auto", problem(machine, **options)).name


def test_the_packages_own_table(machine):
    """An H200, and a chip like it: its engines by size."""
    assert list(choice.measured()) == ["NVIDIA H200"]
    tf32 = {"precision": "tf32"}
    assert chosen(machine, **tf32, N=16, H=128) == "cupy_cluster"
    assert chosen(machine, **tf32, N=16, H=1000) == "cupy_grid"
    assert chosen(machine, **tf32, N=256, H=1024) == "cupy_fused"
    assert chosen(machine, dtype="float64", N=16, H=128) == "cupy_fused"
    assert chosen(machine, precision="tf32x3", N=16, H=128) == "cupy_cluster"
    assert chosen(machine, **tf32, N=0, H=128) == "cupy_cluster"


def test_the_quickest_at_the_nearest_size(machine, made):
    assert made(result())[0] == 0
    tf32 = {"precision": "tf32", "H": 512}
    assert chosen(machine, **tf32, N=8) == "cupy_grid"
    assert chosen(machine, **tf32, N=256) == "cupy_step"
    # Half way between them, by the logarithm, is 45.3.
    assert chosen(machine, **tf32, N=45) == "cupy_grid"
    assert chosen(machine, **tf32, N=46) == "cupy_step"
    assert chosen(machine, precision="tf32", N=8, H=300) == "cupy_grid"
    assert "cupy_step is quicker at N = 256, H = 512" in engines.explain(problem(machine, **tf32, N=200))
    inference = problem(machine, **tf32, N=8)._replace(training=False)
    assert engines.choose("auto", inference).name == "cupy_step"


def test_what_was_not_measured_is_not_chosen(machine, made):
    made(result())
    for options in ({"dtype": "float16"}, {"precision": "ieee"}):
        assert chosen(machine, **options) == "array_api"
        assert DEVICE in engines.load("cupy_grid").declines(problem(machine, **options))
    unlike = engines.load("cupy_fused").declines(problem(machine, "bfloat16"))
    assert "not been proved on a device like this one" in unlike
    machine.name = "NVIDIA Other"
    choice.forget()
    assert chosen(machine, precision="tf32", H=512) == "array_api"


@pytest.mark.parametrize(
    ("capability", "processors", "expected"), [("90", 7, "cupy_grid"), ("90", 8, "array_api"), ("80", 7, "array_api")]
)
def test_a_chip_like_the_measured_one_counts_as_it(monkeypatch, made, capability, processors, expected):
    made(result())
    machine = machine_of(monkeypatch, capability=capability, processors=processors)
    machine.name = "NVIDIA Other"
    assert chosen(machine, precision="tf32", N=8, H=30) == expected
    forget()


def test_the_next_one_where_the_quickest_cannot_run(machine, made):
    made(result())
    assert chosen(machine, dtype="bfloat16", H=2112) == "cupy_grid"
    assert chosen(machine, dtype="bfloat16", H=2113) == "cupy_step"


def test_an_engine_with_a_wrong_number_is_left_out(machine, made):
    found = result()
    found["records"].append({"part": "correctness", "engine": "cupy_grid", "wrong": "h: error 2"})
    made(found)
    assert chosen(machine, precision="tf32", H=512, N=8) == "cupy_step"
    assert "cupy_grid" not in json.dumps(choice.measured())


def test_what_is_measured_again_takes_the_place_of_what_was(made):
    made(result())
    status, table = made(result({("tf32", "training", (1, 2, 3, 4)): {"cupy_step": 1.0}}))
    found = json.loads(table.read_text())
    assert status == 0
    assert found["devices"][DEVICE]["from"] == {"commit": "abc"}
    assert list(choice.measured()) == [DEVICE]
    assert choice.measured()[DEVICE]["quickest"] == [
        {"dtype": "float32", "precision": "tf32", "training": True, "N": 1, "H": 4, "engines": ["cupy_step"]}
    ]


def test_results_of_several_files_count_together(made, capsys):
    one, two = result(command="first"), result({}, command="second", machine={"commit": "def"})
    proof = one["records"].pop(1)
    assert made(one)[0] == 2
    status, table = made(one, two)
    entry = json.loads(table.read_text())["devices"][DEVICE]
    assert status == 0
    assert proof in two["records"]
    assert (entry["from"], entry["command"]) == ({"commit": "abc"}, "first; second")
    two["records"][0] = {"part": "environment", "GPU": "another"}
    assert made(one, two)[0] == 2
    assert "several devices, NVIDIA Test, another" in capsys.readouterr().err


def test_the_table_has_a_line_for_each_point(made):
    lines = made(result())[1].read_text().splitlines()
    points = [json.loads(line.strip().rstrip(",")) for line in lines if '"engines"' in line]
    assert points == choice.measured()[DEVICE]["quickest"]
    assert len(points) == len(TIMES)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (result(rehearsal=True), "a rehearsal on a CPU"),
        (result({}), "no engine has a time in it"),
        (result(records=result()["records"][2:]), "nothing was proved"),
        (result(records=result()["records"][1:]), "does not say which GPU"),
    ],
)
def test_results_that_are_none(made, capsys, found, told):
    status, table = made(found)
    assert status == 2
    assert told in capsys.readouterr().err
    assert not table.exists()


def test_a_table_of_another_format(made, monkeypatch):
    _, table = made(result())
    table.write_text(table.read_text().replace(choice.FORMAT, "something"))
    choice.forget()
    with pytest.raises(ValueError, match="its format is not"):
        choice.measured()
