"""The engine cupy_grid: what it alone does. What all engines for CuPy do is in test_cupy_engines.py."""

from collections import namedtuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from on_fake import LIB, PATIENCE, agree, agree_in_any_company, forget, machine_of, plain, problem
from problems import same_bits
from test_engines import arrays_of, engine_problem, rounded_as, run_engine

from lstm_xp import EngineError, engines
from lstm_xp.engines import cupy_grid
from lstm_xp.engines.cuda import grid, grid_plan
from lstm_xp.engines.cuda.grid_plan import PRODUCTS, Plan, most_units, plan
from lstm_xp.testing import limit, relative_error

ENGINE = engines.load("cupy_grid")
numbers = pytest.mark.parametrize(("dtype", "precision"), PRODUCTS)
Chip = namedtuple("Chip", ("processors", "shared_bytes"))  # of what a device has, what a plan asks for
H200, A100, SMALL = Chip(132, 232448), Chip(108, 166912), Chip(58, 101376)


@pytest.fixture
def machine(monkeypatch, kernels_on_cpu):
    yield machine_of(monkeypatch, kernels_on_cpu, processors=18)
    forget()


def agree_as(precision, found, expected, dtype, steps):
    """TF32 has the digits of float16."""
    if precision == "ieee":
        return agree(found, expected, dtype, steps)
    for name, result in found.items():
        kind = "gradient" if name in ("da", "dh0", "dc0") else "forward"
        assert relative_error(result, expected[name]) <= limit("float16", kind, steps), name


def divided(monkeypatch, tiles, replicas):
    """Plans with so many tiles and replicas."""

    def other(*arguments):
        return Plan(*(part._replace(tiles=tiles, replicas=replicas) for part in plan(*arguments)))

    monkeypatch.setattr(cupy_grid, "plan", other)


# Blocks at once


@numbers
def test_any_order_of_threads_gives_the_same_bits(machine, dtype, precision):
    """Several slices, replicas, chains and teams; blocks and warps that others run far ahead of."""
    engine, values = engines.load("cupy_grid", precision), engine_problem(4, 21, 70)
    found = []
    for machine.seed in range(3):
        found.append(plain(run_engine(engine, arrays_of(LIB, values, dtype))))
    agree_as(precision, found[0], run_engine("array_api", rounded_as(values, dtype)), dtype, 4)
    for other in found[1:]:
        assert all(same_bits(other[name], found[0][name]) for name in other)
    machine.used()


@pytest.mark.parametrize(("tiles", "replicas"), [(1, 1), (1, 2), (2, 1), (2, 2)])
@numbers
def test_any_division_gives_the_same_bits(machine, monkeypatch, dtype, precision, tiles, replicas):
    if tiles > PRODUCTS[dtype, precision][0].down:
        pytest.skip("chains of that product have 8 rows")
    engine, arrays = engines.load("cupy_grid", precision), arrays_of(LIB, engine_problem(3, 19, 50), dtype)
    expected = plain(run_engine(engine, arrays))
    divided(monkeypatch, tiles, replicas)
    machine.seed = 1
    found = plain(run_engine(engine, arrays))
    assert all(same_bits(found[name], expected[name]) for name in found)


@pytest.mark.parametrize(
    ("H", "dtype", "precision"),
    [(530, "float32", "ieee"), (530, "float32", "tf32"), (800, "float16", "ieee"), (800, "bfloat16", "ieee")],
)
def test_weights_that_registers_do_not_hold(monkeypatch, kernels_on_cpu, H, dtype, precision):
    machine_of(monkeypatch, kernels_on_cpu, processors=52)
    cut = plan(dtype, precision, 1, H, Chip(52, 232448))
    assert all(part.kept_bytes for part in cut)
    values = engine_problem(2, 1, H)
    found = plain(run_engine(engines.load("cupy_grid", precision), arrays_of(LIB, values, dtype)))
    agree_as(precision, found, run_engine("array_api", rounded_as(values, dtype)), dtype, 2)


@numbers
def test_places_for_messages_are_used_again(machine, dtype, precision):
    """Steps enough for that, twice; more chains than replicas."""
    engine, values = engines.load("cupy_grid", precision), engine_problem(21, 20, 40)
    assert values["a"].shape[0] > 2 * grid_plan.PLACES
    arrays = arrays_of(LIB, values, dtype)
    machine.devices[0].attributes["MultiProcessorCount"] = 4
    assert all(part.replicas < part.chains for part in plan(dtype, precision, 20, 40, Chip(4, 232448)))
    found = []
    for machine.seed in (1, 2):
        found.append(plain(run_engine(engine, arrays)))
    agree_as(precision, found[0], run_engine("array_api", rounded_as(values, dtype)), dtype, 21)
    assert all(same_bits(found[1][name], v) for name, v in found[0].items())


@numbers
def test_a_value_of_all_bits_is_not_taken_for_a_missing_one(machine, dtype, precision):
    """It is one of many NaNs."""
    engine, arrays = engines.load("cupy_grid", precision), arrays_of(LIB, engine_problem(3, 3, 20), dtype)
    right = plain(run_engine(engine, arrays))
    for name in ("h0", "dh"):
        arrays[name][..., 1, :].view(np.uint8)[...] = 0xFF
    found = plain(run_engine(engine, arrays))
    grid.check("cupy_grid")
    for name in ("h", "da"):
        assert np.all(np.isnan(found[name][:, 1].astype(np.float32)))
        assert same_bits(np.delete(found[name], 1, 1), np.delete(right[name], 1, 1))


def test_rows_have_the_same_bits_in_any_company(machine):
    agree_in_any_company("cupy_grid", arrays_of(LIB, engine_problem(2, 20, 40), "float32"), slice(3, 11))


@numbers
def test_as_in_numpy(monkeypatch, kernels_on_cpu, dtype, precision):
    """The same order of sums and roundings."""
    engine, values, found = engines.load("cupy_grid", precision), engine_problem(3, 11, 70), []
    for compiled in (kernels_on_cpu, None):
        machine_of(monkeypatch, compiled, processors=18)
        found.append(plain(run_engine(engine, arrays_of(LIB, values, dtype))))
    # Where something is rounded on the way, to a half type or to TF32, a few roundings fall on the other side.
    most = {("float32", "ieee"): 1e-6, ("float32", "tf32"): 2e-4}.get((dtype, precision))
    for name in found[0]:
        kind = "gradient" if name in ("da", "dh0", "dc0") else "forward"
        one, other = (v[name].astype(np.float64) for v in found)
        assert relative_error(one, other) <= (most or limit(dtype, kind, 3) / 4), name


# Launches that do not go well


@numbers
@pytest.mark.parametrize("pass_", ["forward", "backward"])
def test_a_wait_in_vain_ends(machine, monkeypatch, dtype, precision, pass_):
    """What is not NaN is right; the next call raises, and those after it are as ever."""
    engine, arrays = engines.load("cupy_grid", precision), arrays_of(LIB, engine_problem(6, 20, 40), dtype)
    expected = run_engine(engine, arrays)
    states, gradients = ("dh", "dh_n", "dc_n"), ("da", "dh0", "dc0")

    def run():
        if pass_ == "forward":
            results = engine.forward(arrays["a"].copy(), arrays["h0"], arrays["c0"], arrays["Wh"], keep=True)
            return dict(zip(("h", "c_n", "c", "gates"), results, strict=True))
        kept = expected["gates"], expected["c"], arrays["c0"], arrays["Wh"]
        return dict(zip(gradients, engine.backward(*(arrays[name] for name in states), *kept), strict=True))

    right, ended = plain(expected), 0
    for machine.seed in (1, 4):
        monkeypatch.setattr(grid, "PATIENCE", 8 * machine.seed)
        found = plain(run())
        lost = {name: np.isnan(v.astype(np.float32)) for name, v in found.items()}
        for name, v in found.items():
            assert same_bits(v[~lost[name]], right[name][~lost[name]]), name
        if any(map(np.any, lost.values())):
            ended += 1
            assert np.any(lost["h" if pass_ == "forward" else "dh0"])
            monkeypatch.setattr(grid, "PATIENCE", PATIENCE)
            launches = len(machine.calls)
            with pytest.raises(RuntimeError, match=r"^cupy_grid: an earlier call on cuda:0 was given up, .* in vain"):
                run()
            assert len(machine.calls) == launches
        found = plain(run()) if ended else found
        monkeypatch.setattr(grid, "PATIENCE", PATIENCE)
        assert all(same_bits(v, right[name]) for name, v in plain(run()).items())
    assert ended


def test_a_launch_of_which_cupy_leaves_out_blocks(machine, monkeypatch):
    """It is looked at before; and should it still happen, nothing that was not computed passes for a result."""
    arrays = arrays_of(LIB, engine_problem(3, 5, 40), "float32")
    forward = arrays["h0"], arrays["c0"], arrays["Wh"]
    _, _, c, gates = ENGINE.forward(arrays["a"].copy(), *forward, keep=True)
    launches = len(machine.calls)
    machine.room = 0
    grid._settled.cache_clear()  # it is asked once on each device
    with pytest.raises(
        RuntimeError, match=r"^cupy_grid: 4 blocks of 256 threads and \d+ bytes must be .* room for 0 on"
    ):
        ENGINE.forward(arrays["a"].copy(), *forward, keep=True)
    assert len(machine.calls) == launches
    machine.room, machine.devices[0].attributes["MultiProcessorCount"] = 1, 3
    monkeypatch.setattr(grid, "_look_for_room", lambda *launch: None)
    found = plain(dict(enumerate(ENGINE.forward(arrays["a"].copy(), *forward, keep=True))))
    assert all(np.all(np.isnan(v)) for v in found.values())
    with pytest.raises(RuntimeError, match="fewer blocks than were asked for"):
        ENGINE.backward(arrays["dh"], None, None, gates, c, *forward[1:])
    found = plain(dict(enumerate(ENGINE.backward(arrays["dh"], None, None, gates, c, *forward[1:]))))
    assert all(np.all(np.isnan(v)) for v in found.values())
    with pytest.raises(RuntimeError, match="fewer blocks"):
        grid.check("cupy_grid")
    grid.check("cupy_grid")


# Plans

sizes, chips = (
    st.integers(1, 2200),
    st.builds(Chip, st.integers(1, 160), st.sampled_from([49152, 101376, 166912, 232448])),
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(PRODUCTS)), st.integers(1, 5000), sizes, chips)
def test_plans(key, N, H, chip):
    cut = plan(*key, N, H, chip)
    assert (cut is None) == (most_units(*key, chip) < H)
    if cut is None:
        return
    for part in cut:
        assert (part.N, part.H) == (N, H)
        assert part.expression in grid_plan.expressions()
        # All blocks at once, with what one can have.
        assert 1 <= part.blocks <= chip.processors
        assert part.shared_bytes <= chip.shared_bytes <= 227 * 1024
        # Each unit's cells belong to one slice, each row to one chain, and each chain to one replica.
        assert part.slices * part.units >= H
        assert (part.slices - (4 if part.backward else 1)) * part.units < H
        assert part.slices % (4 if part.backward else 1) == 0
        assert part.rows - 8 * part.tiles < N <= part.rows
        assert 1 <= part.replicas <= part.chains
        # All of Wh is in registers and shared memory.
        columns, weight = 16 * part.product.across, part.product.weight_bytes
        held = min(part.chunks, part.held) * part.chunk_bytes
        assert held + part.kept_bytes == columns * part.pitch * weight >= columns * H * weight
        assert part.held // 8 * part.chunk_bytes <= 32 * 4 * part.product.registers
        assert part.pitch * part.product.row_bytes % 64 == 0
        assert (part.pitch - H) * part.product.row_bytes < 64
        # No other number of tiles would take less time, as far as is estimated.
        others = (part._replace(tiles=tiles) for tiles in range(1, part.product.down + 1))
        others = (other._replace(replicas=min(other.chains, chip.processors // part.slices)) for other in others)
        assert part.seconds == min(other.seconds for other in others if other.shared_bytes <= chip.shared_bytes)


def test_the_sizes_that_it_is_for():
    for key, most in zip(PRODUCTS, (2048, 2048, 1536, 1536), strict=True):
        assert plan(*key, 32, most, H200)
        assert most_units(*key, H200) >= most
        assert most_units(*key, H200) > most_units(*key, A100) > most_units(*key, SMALL) > 500


def test_the_batch_is_split_where_wh_leaves_room():
    assert plan("bfloat16", "ieee", 64, 1024, H200).forward.replicas == 2
    assert plan("bfloat16", "ieee", 64, 2048, H200).forward.replicas == 1
    assert plan("bfloat16", "ieee", 1, 512, H200).forward.replicas == 1


# Choice


def test_it_runs_when_it_is_named_and_is_not_chosen_by_itself(monkeypatch):
    """Where no device like this one has been measured."""
    machine = machine_of(monkeypatch, processors=100)
    assert engines.choose("auto", problem(machine)).name == "array_api"
    assert engines.choose("cupy_grid", problem(machine)).name == "cupy_grid"
    assert (
        "cupy_grid: declines, it has not been proved on a device like this one (NVIDIA Test), for float32"
        in engines.explain(problem(machine))
    )


@pytest.mark.parametrize("precision", ["ieee", "tf32", "tf32x3"])
def test_a_precision_is_that_of_the_engine_that_is_loaded(precision):
    engine = engines.load("cupy_grid", precision)
    assert engine.name == "cupy_grid"
    assert getattr(engine, "precision", "ieee") == ("tf32" if precision == "tf32" else "ieee")


@pytest.mark.parametrize(
    ("capability", "options", "reason"),
    [
        ("90", {"library": "numpy"}, "it needs CuPy arrays, these are numpy's"),
        ("90", {"dtype": "float64"}, "it computes float16, bfloat16, float32, not float64"),
        ("75", {}, "it needs compute capability 8.0, this device has 7.5"),
        ("90", {"H": 1600}, "H must be at most 1584 for float32 on 132 multiprocessors with 232448 bytes of"),
        ("90", {"H": 2113, "dtype": "float16"}, "which have to hold Wh; it is 2113"),
        ("90", {"N": 2**20, "H": 2**9}, "4 N H and N T must be below 2^31"),
    ],
)  # fmt: skip
def test_what_it_refuses(monkeypatch, capability, options, reason):
    machine = machine_of(monkeypatch, capability=capability)
    asked = problem(machine, **options)
    assert reason in engines.load("cupy_grid", asked.precision).refuses(asked)
    with pytest.raises(EngineError, match="cupy_grid"):
        engines.choose("cupy_grid", problem(machine, **options))


def test_a_device_without_cooperative_launches(monkeypatch):
    machine = machine_of(monkeypatch)
    machine.devices[0].attributes["CooperativeLaunch"] = 0
    assert ENGINE.refuses(problem(machine)) == "the device has no cooperative launches"


@pytest.mark.parametrize("capability", ["80", "86", "89", "90", "100", "120"])
def test_what_it_does_not_refuse(monkeypatch, capability):
    machine = machine_of(monkeypatch, capability=capability)
    for dtype, precision in PRODUCTS:
        assert engines.load("cupy_grid", precision).refuses(problem(machine, dtype, precision=precision, H=1536)) == ""
