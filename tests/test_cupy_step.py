"""The engine cupy_step: what it alone does. What all engines for CuPy do is in test_cupy_engines.py."""

import threading
from ctypes import sizeof
from types import SimpleNamespace

import fake_cupy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from on_fake import LIB, agree, agree_in_any_company, forget, machine_of, plain, problem
from problems import same_bits
from test_engines import BACKWARD, arrays_of, engine_problem, rounded_as, run_engine

from lstm_xp import EngineError, engines, recording
from lstm_xp.engines.cuda import leases, programmatic, step_launches
from lstm_xp.engines.cuda import plan as plans
from lstm_xp.engines.cuda.plan import PRODUCTS, TILES, plan
from lstm_xp.engines.cuda.programmatic import loaded
from lstm_xp.testing import limit, relative_error

ENGINE = engines.load("cupy_step")
numbers = pytest.mark.parametrize(("dtype", "precision"), PRODUCTS)


@pytest.fixture
def machine(monkeypatch, kernels_on_cpu):
    yield machine_of(monkeypatch, kernels_on_cpu)
    forget()


def calls(machine, *names):
    return [call for call in machine.calls if call[0] in names]


# Tiles


@pytest.mark.parametrize("tile", TILES, ids=str)
@numbers
def test_every_tile(monkeypatch, kernels_on_cpu, dtype, precision, tile):
    """As C++ and in NumPy, over several blocks, the last ones partly empty: the same order of sums and roundings."""
    monkeypatch.setattr(plans, "TILES", (tile,))
    plan.cache_clear()
    values, engine, found = engine_problem(3, 35, 70), engines.load("cupy_step", precision), {}
    arrays = arrays_of(LIB, values, dtype)
    try:
        for name, compiled in (("C++", kernels_on_cpu), ("NumPy", None)):
            machine = machine_of(monkeypatch, compiled)
            found[name] = plain(run_engine(engine, arrays))
            machine.used()
    finally:
        plan.cache_clear()
        forget()
    used = plan_of(machine, "forward_step")
    assert used.endswith(", ".join(map(str, tile)))
    expected = run_engine("array_api", rounded_as(values, dtype))
    if precision == "ieee":
        agree(found["C++"], expected, dtype, 3)
    for name, result in found["C++"].items():
        kind = "gradient" if name in BACKWARD else "forward"
        rounding = "float16" if precision == "tf32" else dtype
        assert relative_error(result, expected[name]) <= limit(rounding, kind, 3), name
        # Where something is rounded on the way, to a half type or to TF32, a few roundings fall on the other side.
        most = {("float32", "ieee"): 1e-6, ("float32", "tf32"): 2e-4}.get((dtype, precision), limit(dtype, kind, 3) / 4)
        assert relative_error(result.astype(np.float64), found["NumPy"][name].astype(np.float64)) <= most, name


def plan_of(machine, kernel):
    return next(call[1] for call in machine.calls if call[0] == kernel)


def test_rows_have_the_same_bits_in_any_company(machine):
    agree_in_any_company("cupy_step", arrays_of(LIB, engine_problem(1, 20, 40), "float32"), slice(3, 11))


# Launches


@pytest.mark.parametrize(
    ("T", "forward", "backward"), [(1, 0, 0), (7, 0, 1), (8, 1, 1), (31, 1, 1), (32, 1, 2), (33, 2, 2), (70, 3, 3)]
)
def test_steps_are_replayed_in_chunks(machine, T, forward, backward):
    """A graph has 32 launches whatever T is; few steps are launched one by one. Backward has one launch more."""
    arrays = arrays_of(LIB, engine_problem(T, 2, 3), "float32")
    ENGINE.forward(arrays["a"].copy(), arrays["h0"], arrays["c0"], arrays["Wh"], keep=False)
    assert calls(machine, "graph", "captured") == [("captured", 32)] * (forward > 0) + [("graph", 32)] * forward
    machine.calls.clear()
    results = run_engine("cupy_step", arrays)
    assert len(calls(machine, "graph")) == forward + backward
    # Captured once for each direction and no more, the forward graph already before.
    assert len(calls(machine, "captured")) == (backward > 0)
    assert len(calls(machine, "fill")) == max(1, forward) + max(1, backward)
    expected = run_engine("array_api", rounded_as(engine_problem(T, 2, 3), "float32"))
    agree(results, expected, "float32", T)


def test_a_kernel_has_run_before_it_is_captured(machine):
    """At their first launch, kernels may be loaded; launched once beyond all steps, they do nothing."""
    run_engine("cupy_step", arrays_of(LIB, engine_problem(40, 2, 3), "float32"))
    order = [call[0] for call in machine.calls if call[0] in ("forward_step", "backward_step", "captured")]
    assert order[:2] == ["forward_step", "captured"]
    assert order[order.index("backward_step") :][:2] == ["backward_step", "captured"]


def test_another_number_of_steps_needs_no_other_graph(machine):
    for T in (40, 9, 100, 33):
        arrays = arrays_of(LIB, engine_problem(T, 2, 3, T), "float32")
        expected = run_engine("array_api", rounded_as(engine_problem(T, 2, 3, T), "float32"))
        agree(run_engine("cupy_step", arrays), expected, "float32", T)
    assert len(calls(machine, "captured")) == 2


def test_two_forwards_before_one_backward(machine):
    """The second one's replays write into nothing of the first."""
    one, two = (arrays_of(LIB, engine_problem(40, 3, 5, seed), "float32") for seed in (1, 2))
    expected = [plain(run_engine("cupy_step", arrays)) for arrays in (one, two)]
    kept = [ENGINE.forward(v["a"].copy(), v["h0"], v["c0"], v["Wh"], keep=True) for v in (one, two)]
    for arrays, (_, _, c, gates), right in zip((one, two), kept, expected, strict=True):
        found = ENGINE.backward(arrays["dh"], arrays["dh_n"], arrays["dc_n"], gates, c, arrays["c0"], arrays["Wh"])
        for name, value in zip(BACKWARD, found, strict=True):
            assert same_bits(np.array(np.asarray(value)), right[name]), name


def test_an_initial_state_at_an_odd_address(machine):
    """Rows of 16 bytes are read at once; a view may begin anywhere."""
    arrays = arrays_of(LIB, engine_problem(2, 3, 8), "float32")
    expected = plain(run_engine("cupy_step", arrays))
    memory = np.zeros(3 * 8 + 4, np.float32).view(type(arrays["h0"]))
    start = 1 if memory.ctypes.data % 16 == 0 else 0
    shifted = memory[start : start + 24].reshape(3, 8)
    shifted[...] = arrays["h0"]
    assert shifted.ctypes.data % 16
    found = plain(run_engine("cupy_step", arrays | {"h0": shifted}))
    assert all(same_bits(found[name], expected[name]) for name in expected)


# Programmatic launches

STEPS = 40


def steps_of(machine, T=STEPS):
    arrays = arrays_of(LIB, engine_problem(T, 2, 3), "float32")
    machine.calls.clear()
    return plain(run_engine("cupy_step", arrays))


def test_steps_of_a_graph_are_launched_programmatically_but_for_the_first(machine):
    """The fake driver refuses such a launch after anything but the same kernel."""
    expected = steps_of(machine)
    assert not calls(machine, "programmatic")
    forget()
    machine.programmatic = True
    results = steps_of(machine)
    # Both graphs, and a capture of two before, to see that it can be done.
    assert calls(machine, "programmatic") == [("programmatic", True)] * (1 + 31 + 31)
    assert calls(machine, "captured") == [("captured", 2), ("captured", 32), ("captured", 32)]
    assert all(same_bits(results[name], expected[name]) for name in expected)
    steps_of(machine, T=100)
    steps_of(machine, T=7)
    assert not calls(machine, "programmatic")


def test_long_steps_do_not_begin_early(machine, monkeypatch):
    machine.programmatic = True
    monkeypatch.setattr(step_launches, "EARLY", dict.fromkeys(step_launches.EARLY, 0))
    run_engine("cupy_step", arrays_of(LIB, engine_problem(40, 3, 8), "float32"))
    assert not calls(machine, "programmatic")


def test_which_steps_are_long():
    """Those of few rows and units are not; on FMA units, where it was seen to be slower, 64 rows of 512 units are."""
    early = {
        (precision, N, H): plan("float32", precision, N, H, 132).forward.seconds(132)
        <= step_launches.EARLY[plan("float32", precision, N, H, 132).forward.product]
        for precision in ("ieee", "tf32")
        for N, H in ((8, 512), (64, 512), (64, 1024))
    }
    assert [size for size, begins in early.items() if not begins] == [
        ("ieee", 64, 512), ("ieee", 64, 1024), ("tf32", 64, 1024),
    ]  # fmt: skip


@pytest.mark.parametrize("capability", ["80", "89", "90", "100", "120"])
def test_devices_that_have_programmatic_launches(monkeypatch, capability):
    machine = machine_of(monkeypatch, capability=capability)
    machine.programmatic = True
    steps_of(machine)
    assert bool(calls(machine, "programmatic")) == (int(capability) >= 90)
    forget()


@pytest.mark.parametrize(("refused", "spoiled", "tried"), [(10**6, 0, 2), (0, 2, 2), (1, 0, 2 + 62), (0, 1, 2 + 62)])
def test_where_programmatic_launches_fail_there_are_ordinary_ones(machine, recwarn, refused, spoiled, tried):
    """Whether the launch fails or the capture of it; one that fails once is tried again, as captures are."""
    expected = steps_of(machine)
    forget()
    machine.programmatic, machine.refused, machine.spoiled = True, refused, spoiled
    results = steps_of(machine)
    assert len(calls(machine, "programmatic")) == tried
    assert calls(machine, "captured")[-2:] == [("captured", 32)] * 2
    assert all(same_bits(results[name], expected[name]) for name in expected)
    steps_of(machine, T=100)
    assert not calls(machine, "programmatic")
    assert not recwarn.list


def test_recorded_steps_are_launched_programmatically(machine):
    machine.programmatic = True
    arrays = arrays_of(LIB, engine_problem(STEPS, 2, 3), "float32")
    expected = plain(run_engine("cupy_step", arrays))
    forget()
    machine.calls.clear()
    _, _, graph, result = recording._captured(lambda: run_engine("cupy_step", arrays))
    # STEPS and one more backward, but for the first ones: before the capture, and in it.
    found = calls(machine, "programmatic")
    assert found == [("programmatic", True)] + [("programmatic", False)] * 79 + [("programmatic", True)] * 79
    graph.launch()
    assert all(same_bits(v, expected[name]) for name, v in plain(result).items())


def test_in_a_capture_of_the_callers_own_nothing_is_tried(machine):
    machine.programmatic = True
    arrays = arrays_of(LIB, engine_problem(STEPS, 2, 3), "float32")
    run_engine("cupy_step", {name: v[:5] if v.ndim == 3 else v for name, v in arrays.items()})  # loads the kernels
    stream = fake_cupy.Stream(non_blocking=True)
    with stream:
        stream.begin_capture(fake_cupy.RELAXED)
        run_engine("cupy_step", arrays)
        stream.end_capture()
    assert calls(machine, "captured")
    assert not calls(machine, "programmatic")


def test_the_driver_is_looked_for(machine, monkeypatch):
    found, versions = SimpleNamespace(cuLaunchKernelEx=SimpleNamespace()), [12030]
    runtime = SimpleNamespace(driverGetVersion=lambda: versions[0])
    monkeypatch.setattr("cupy.cuda.runtime", runtime)
    monkeypatch.setattr(programmatic, "CDLL", lambda name: found)
    assert loaded.__wrapped__() is found.cuLaunchKernelEx
    versions[0] = 12020
    assert loaded.__wrapped__() is None
    monkeypatch.setattr(programmatic, "CDLL", lambda name: SimpleNamespace())
    assert loaded.__wrapped__() is None

    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(programmatic, "CDLL", missing)
    assert loaded.__wrapped__() is None
    # As cuda.h has them on 64 bits.
    config, attribute = programmatic.Config, programmatic.Attribute
    assert (sizeof(config), config.hStream.offset, config.attrs.offset, config.numAttrs.offset) == (56, 32, 40, 48)
    assert (sizeof(attribute), attribute.value.offset) == (72, 8)


# What is kept


def leased(steps):
    return leases.leased(steps, step_launches.Runner)


def test_what_is_kept_is_bounded(machine):
    steps = plan("float32", "ieee", 3, 5, 132).forward
    for N in range(1, 2 * leases.KEPT):
        with leased(steps._replace(N=N)):
            pass
    assert len(leases._idle) == leases.KEPT
    held, new, oldest = machine.used(), steps._replace(N=100), steps._replace(N=leases.KEPT)
    with leased(new):
        pass
    assert machine.used() == held + new.packed_bytes - oldest.packed_bytes


def test_so_are_its_bytes(machine, monkeypatch):
    steps = plan("float32", "ieee", 3, 5, 132).forward
    monkeypatch.setattr(leases, "KEPT_BYTES", 2 * steps.packed_bytes)
    for N in range(1, 6):
        with leased(steps._replace(N=N)):
            pass
    assert [key[-1].N for key, _ in leases._idle] == [4, 5]
    with leased(steps._replace(H=50)) as runner:
        assert runner.steps.packed_bytes > leases.KEPT_BYTES
    assert not leases._idle


def test_a_runner_is_leased_to_one_at_a_time(machine):
    steps = plan("float32", "ieee", 3, 5, 132).forward
    with leased(steps) as first, leased(steps) as second:
        assert first is not second
    with leased(steps) as third:
        assert third in (first, second)
    with fake_cupy.Stream(non_blocking=True), leased(steps) as elsewhere:
        assert elsewhere not in (first, second)
    found = []

    def work():
        with leased(steps) as runner:
            found.append(runner)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found[0] not in (first, second, elsewhere)
    with leased(steps._replace(N=4)) as other:
        assert other not in (first, second)


def test_after_an_error_a_runner_is_forgotten(machine):
    steps = plan("float32", "ieee", 3, 5, 132).forward
    with pytest.raises(ZeroDivisionError), leased(steps):
        raise ZeroDivisionError
    assert not leases._idle


# Plans

sizes = st.integers(1, 5000)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(list(PRODUCTS)), sizes, sizes, st.integers(1, 200))
def test_plans(key, N, H, processors):
    cut = plan(*key, N, H, processors)
    assert plan(*key, N, H, processors) == cut
    for part, columns, depth in ((cut.forward, 4 * H, H), (cut.backward, H, 4 * H)):
        assert (part.columns, part.depth, part.N, part.H) == (columns, depth, N, H)
        assert part.expression in plans.expressions()
        assert part.packing in plans.expressions()
        across, down = part.grid
        wide, tall = 16 * part.tile.across, 8 * part.tile.down * part.tile.high
        assert across % part.tile.split == 0
        across //= part.tile.split
        assert (across - 1) * wide < columns <= across * wide
        assert (down - 1) * tall < N <= down * tall
        item = 2 if part.product in ("Half", "Bfloat") else 4
        per_chunk = 64 // item
        assert (part.chunks - 1) * per_chunk < depth <= part.chunks * per_chunk
        assert part.weights_bytes == across * wide * part.chunks * 64
        assert part.rows_bytes == 2 * down * tall * part.chunks * 64
        assert part.packed_bytes == part.weights_bytes + part.rows_bytes
        assert part.shared_bytes <= 99 * 1024  # as compute capabilities 8.6, 8.9 and 12.0 have it
        assert part.block <= 1024
        assert part.tile.split <= 8
        assert tall % part.tile.split == 0
        # No other tile would take less time, as far as is estimated.
        assert all(part.seconds(processors) <= part._replace(tile=tile).seconds(processors) for tile in TILES)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(list(PRODUCTS)), sizes, sizes, st.integers(1, 199))
def test_more_processors_take_no_more_time(key, N, H, processors):
    few, many = (plan(*key, N, H, count).forward.seconds(count) for count in (processors, processors + 1))
    assert many <= few


def test_small_problems_spread_and_large_ones_read_less():
    small, large = (plan("bfloat16", "ieee", N, H, 132).forward for N, H in ((1, 64), (256, 2048)))
    assert (small.wide, small.tall) == (16, 8)
    assert (large.wide, large.tall) == (64, 64)


# Choice


def test_it_runs_when_it_is_named_and_is_not_chosen_by_itself(monkeypatch):
    """Where no device like this one has been measured."""
    machine = machine_of(monkeypatch, processors=100)
    assert engines.choose("auto", problem(machine)).name == "array_api"
    assert engines.choose("cupy_step", problem(machine)).name == "cupy_step"
    assert "proved" in ENGINE.declines(problem(machine))
    lines = engines.explain(problem(machine)).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["array_api", *engines.candidates("cupy")[:-1]]


@pytest.mark.parametrize("precision", ["ieee", "tf32", "tf32x3"])
def test_a_precision_is_that_of_the_engine_that_is_loaded(precision):
    engine = engines.load("cupy_step", precision)
    assert engine.name == "cupy_step"
    assert getattr(engine, "precision", "ieee") == ("tf32" if precision == "tf32" else "ieee")


@pytest.mark.parametrize(
    ("capability", "options", "reason"),
    [
        ("90", {"library": "numpy"}, "it needs CuPy arrays, these are numpy's"),
        ("90", {"dtype": "float64"}, "it computes float16, bfloat16, float32, not float64"),
        ("75", {}, "it needs compute capability 8.0, this device has 7.5"),
        ("90", {"N": 600_000}, "N must be at most 524280; it is 600000"),
        ("120", {"N": 2**19, "H": 2**11}, "N must be at most"),
        ("120", {"N": 2**18, "H": 2**12}, "4 N H and N T must be below 2^31"),
    ],
)
def test_what_it_refuses(monkeypatch, capability, options, reason):
    machine = machine_of(monkeypatch, capability=capability)
    assert reason in ENGINE.refuses(problem(machine, **options))
    with pytest.raises(EngineError, match="cupy_step"):
        engines.choose("cupy_step", problem(machine, **options))


@pytest.mark.parametrize("capability", ["80", "86", "89", "90", "100", "120"])
def test_what_it_does_not_refuse(monkeypatch, capability):
    machine = machine_of(monkeypatch, capability=capability)
    for dtype, precision in PRODUCTS:
        assert engines.load("cupy_step", precision).refuses(problem(machine, dtype, precision=precision)) == ""
