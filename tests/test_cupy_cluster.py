"""The engine cupy_cluster: what it alone does. What all engines for CuPy do is in test_cupy_engines.py.

Its kernels run as C++, all blocks of a cluster at once, their messages late and in any order: see cuda_on_cpu.py.
"""

import cuda_on_cpu
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from on_fake import LIB, agree, agree_in_any_company, forget, machine_of, plain, problem
from problems import same_bits
from test_engines import BACKWARD, arrays_of, engine_problem, rounded_as, run_engine

from lstm_xp import EngineError, engines
from lstm_xp.engines import cupy_cluster
from lstm_xp.engines.cuda import cluster_plan as plans
from lstm_xp.engines.cuda import kernels
from lstm_xp.engines.cuda.cluster_plan import Plan, plan
from lstm_xp.testing import limit, relative_error

KEYS = [
    ("float16", "ieee"),
    ("bfloat16", "ieee"),
    ("float32", "ieee"),
    ("float32", "tf32"),
    ("float32", "tf32x3"),
]
numbers = pytest.mark.parametrize(("dtype", "precision"), KEYS)
EXPRESSIONS = frozenset(plans.expressions())


@pytest.fixture
def machine(monkeypatch, kernels_on_cpu):
    yield machine_of(monkeypatch, kernels_on_cpu)
    forget()


def cut_as(monkeypatch, blocks, tiles=1):
    """Every problem cut in one way; backward with 4 blocks, where forward has one."""

    def cut(dtype, precision, N, H, processors):
        found = []
        for kernel, product in zip(plans.KERNELS, plans.products(dtype, precision), strict=True):
            every = list(plans.cuts(kernel, dtype, product, N, H))
            least = 4 if kernel == "cluster_backward" else 1
            found += [part for part in every if (part.blocks, part.tiles) == (max(blocks, least), tiles)]
        assert len(found) == 2
        assert {part.expression for part in found} <= EXPRESSIONS
        return Plan(*found)

    monkeypatch.setattr(cupy_cluster, "plan", cut)


# Cuts


@pytest.mark.parametrize(
    ("blocks", "tiles", "H"),
    [(1, 1, 30), (1, 2, 20), (4, 1, 70), (4, 2, 70), (8, 1, 70), (8, 2, 100), (16, 1, 140), (16, 2, 130), (16, 1, 260)],
)
@numbers
def test_every_cut(monkeypatch, kernels_on_cpu, dtype, precision, blocks, tiles, H):
    """As C++ and in NumPy: clusters and blocks partly empty, two tiles, threads in any order."""
    if tiles == 2 and precision != "tf32" and dtype == "float32":
        pytest.skip("it is planned for one tile alone")
    cut_as(monkeypatch, blocks, tiles)
    values, engine, found = engine_problem(3, 3 if H > 200 else 19, H), engines.load("cupy_cluster", precision), {}
    arrays = arrays_of(LIB, values, dtype)
    for name, compiled in (("C++", kernels_on_cpu), ("NumPy", None)):
        machine = machine_of(monkeypatch, compiled)
        machine.seed = H
        found[name] = plain(run_engine(engine, arrays))
        machine.used()
        forget()
    expected = run_engine("array_api", rounded_as(values, dtype))
    if precision != "tf32":
        agree(found["C++"], expected, dtype, 3)
    for name, result in found["C++"].items():
        kind = "gradient" if name in BACKWARD else "forward"
        rounding = "float16" if precision == "tf32" else dtype
        assert relative_error(result, expected[name]) <= limit(rounding, kind, 3), name
        # Where something is rounded on the way, to a half type or to TF32, a few roundings fall on the other side.
        most = 2e-4 if precision == "tf32" else 1e-6 if dtype == "float32" else limit(dtype, kind, 3) / 4
        assert relative_error(result.astype(np.float64), found["NumPy"][name].astype(np.float64)) <= most, name


@pytest.mark.parametrize(("dtype", "H"), [("float32", 512), ("float16", 768), ("bfloat16", 768)])
def test_the_largest(machine, dtype, H):
    """All that a cluster of 16 blocks can hold."""
    machine.seed, values = 1, engine_problem(2, 1, H)
    agree(run_engine("cupy_cluster", arrays_of(LIB, values, dtype)), run_engine("array_api", rounded_as(values, dtype)),
          dtype, 2)  # fmt: skip
    cuts = plan(dtype, "ieee", 1, H, 132)
    assert [call[1] for call in machine.calls] == [cut.expression.partition("<")[2][:-1] for cut in cuts]


@pytest.mark.parametrize("T", [1, 2, 3, 6])
@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_the_same_bits_in_any_order_of_threads_and_messages(monkeypatch, machine, precision, T):
    cut_as(monkeypatch, 4)
    arrays = arrays_of(LIB, engine_problem(T, 9, 40), "float32")
    expected = plain(run_engine(engines.load("cupy_cluster", precision), arrays))
    for machine.seed in range(1, 9):
        found = plain(run_engine(engines.load("cupy_cluster", precision), arrays))
        assert all(same_bits(found[name], expected[name]) for name in expected)


# Blocks -> units that are shared out among so many.
UNITS = {1: 30, 4: 70, 8: 70}
# What is planted in cluster.cu or cluster.cuh; and with how many blocks that is seen.
PLANTED = {
    "nothing": (4, "__syncthreads();", "__syncthreads();"),
    "a message is not awaited": (4, "    await(of(k), k / 2 % 2);\n", ""),
    "the parity of the other phase": (4, "await(of(k), k / 2 % 2);", "await(of(k), k / 2 % 2 ^ 1);"),
    "no phase is announced again": (4, "if (threadIdx.x == 0) announce(of(k), bytes);", ""),
    "too many bytes are announced": (4, "announce(barriers + k, bytes);", "announce(barriers + k, bytes + 16);"),
    "nothing is announced at first": (4, "    if (threadIdx.x == 0) mail.expect();\n", ""),
    "one buffer for all messages": (4, "told = rows + t % 2 * size", "told = rows + 1 * size"),
    "one buffer for all shares": (4, "number % 2 * size", "0 * size"),
    "blocks begin before others are prepared": (4, "    cluster_sync();\n", "    __syncthreads();\n"),
    "a block ends before its last message": (4, "    mail.receive(T - 1);\n", ""),
    "one place for da, read and written": (8, "da_t = rows + number % BUFFERS * rows_size", "da_t = rows"),
    "da is read before it is there": (4, "two numbers behind.\n        __syncthreads();\n", "two numbers behind.\n"),
    "sums are read before they are there": (4, "        __syncthreads();  // all sums", "  // all sums"),
    "a part of the depth twice": (4, "rows + (t + 1) % 2 * size + part * NT * LANES", "rows + (t + 1) % 2 * size"),
    "h is sent before it is there": (4, "= message;\n                __syncwarp();\n", "= message;\n"),
    "shares go to the wrong owner": (4, "remote(first / U < C ? first / U : 0)", "remote((first / U + 1) % C)"),
    "a share of the wrong block": (4, "+= share[from * TALL]", "+= share[(from - 1) * TALL]"),
    "rows of the neighbour": (4, "j / 2 == odd ? own[j % 2]", "j / 2 != odd ? own[j % 2]"),
    "c of this step for the one before": (4, "prev = t > 1 ? c : c0", "prev = t > 1 ? c + step : c0"),
    "padded units send what they compute": (4, "unit < H ? rounded(P(), new_h[k]) : S()", "rounded(P(), new_h[k])"),
    "a block alone does not wait for itself": (1, "if (C == 1) __syncthreads();", ""),
}


def kernels_with(blocks):
    every = (cut for kernel in plans.KERNELS for cut in plans.cuts(kernel, "float32", "Tf32", 8, UNITS[blocks]))
    return [cut.expression for cut in every if cut.blocks == max(blocks, 4 if cut.backward else 1)]


@pytest.fixture(scope="module")
def with_errors(kernels_on_cpu, tmp_path_factory):
    errors = [(old, new, kernels_with(blocks)) for blocks, old, new in PLANTED.values()]
    return cuda_on_cpu.Planted(kernels.source(*plans.FILES), errors, tmp_path_factory.mktemp("planted"))


@pytest.mark.parametrize("planted", PLANTED)
def test_an_error_in_the_source_would_be_seen(monkeypatch, machine, with_errors, planted):
    """As other bits, or as what the emulator does not allow: some order of threads and messages shows it. Where nothing
    is planted, none does."""
    blocks, *_ = PLANTED[planted]
    cut_as(monkeypatch, blocks)
    values = engine_problem(6, 9, UNITS[blocks])
    values["h0"][0, 3] = np.inf
    arrays = arrays_of(LIB, values, "float32")
    right = plain(run_engine(engines.load("cupy_cluster", "tf32"), arrays))
    machine.compiled, with_errors.chosen = with_errors, list(PLANTED).index(planted)

    def is_seen(seed):
        machine.seed = seed
        try:
            found = plain(run_engine(engines.load("cupy_cluster", "tf32"), arrays))
        except AssertionError:
            return True
        return any(not same_bits(found[name], right[name]) for name in right)

    assert any(is_seen(seed) for seed in range(1, 31)) == (planted != "nothing")


def test_rows_have_the_same_bits_in_any_company(machine):
    agree_in_any_company("cupy_cluster", arrays_of(LIB, engine_problem(2, 20, 40), "float32"), slice(3, 11))


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_padded_units_keep_infinite_states_to_themselves(monkeypatch, machine, precision):
    """A weight of zero times an infinite h is NaN: it must not come from units that are not there."""
    cut_as(monkeypatch, 4)
    values = engine_problem(4, 3, 5)
    values["h0"][0, 0] = np.inf
    values["Wh"] = np.abs(values["Wh"]) + 0.1
    found = plain(run_engine(engines.load("cupy_cluster", precision), arrays_of(LIB, values, "float32"), keep=False))
    with np.errstate(invalid="ignore"):
        expected = run_engine("array_api", rounded_as(values, "float32"), keep=False)
    assert np.all(np.isfinite(found["h"]))
    assert relative_error(found["h"], expected["h"]) <= limit("float16" if precision == "tf32" else "float32", steps=4)


def test_three_products_of_tf32_are_nearly_ieee(machine):
    arrays = arrays_of(LIB, engine_problem(3, 4, 60), "float32")
    every = (engines.load("cupy_cluster", precision) for precision in ("ieee", "tf32", "tf32x3"))
    exact, coarse, three = (plain(run_engine(engine, arrays))["h"] for engine in every)
    assert np.max(np.abs(coarse - exact)) > 100 * np.max(np.abs(three - exact)) > 0


def test_a_pass_is_one_launch(machine):
    run_engine("cupy_cluster", arrays_of(LIB, engine_problem(7, 4, 6), "float32"))
    assert [call[0] for call in machine.calls] == list(plans.KERNELS)


def test_memory_is_what_is_returned(machine):
    """No workspace is kept between calls."""
    arrays = arrays_of(LIB, engine_problem(5, 4, 6), "float32")
    run_engine("cupy_cluster", arrays)
    held = machine.used()
    for _ in range(3):
        run_engine("cupy_cluster", arrays)
    assert machine.used() == held


def test_large_clusters_are_allowed_on_every_device(monkeypatch, kernels_on_cpu):
    """The fake refuses clusters of more than 8 blocks, and more than 48 KB, where nobody asked for them."""
    machine = machine_of(monkeypatch, kernels_on_cpu, devices=2)
    cut_as(monkeypatch, 16)
    for device in machine.devices:
        arrays = arrays_of(LIB, engine_problem(2, 3, 130), "float32")
        for array in arrays.values():
            array.place = device
        run_engine("cupy_cluster", arrays)
    forget()


# Plans

sizes = st.integers(1, 5000)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(KEYS), sizes, st.integers(1, 900), st.integers(1, 200))
def test_plans(key, N, H, processors):
    both = plan(*key, N, H, processors)
    assert (both is None) == (H > plans.most_units(*key))
    for cut in both or ():
        assert cut.expression in EXPRESSIONS
        # Units are shared out, by eights; rows too, by tiles.
        assert cut.units % 8 == 0
        assert cut.blocks * (cut.units - 8) < H <= cut.blocks * cut.units
        assert (cut.clusters - 1) * cut.rows < N <= cut.clusters * cut.rows
        assert cut.grid == (cut.blocks * cut.clusters,)
        # Every group of 32 columns has a warp, and every 8 units of 4 rows.
        columns = cut.blocks * cut.units if cut.backward else 4 * cut.units
        per_part = 32 * cut.groups * cut.warps // cut.parts
        assert columns <= per_part < columns + 32 * cut.groups
        assert cut.units // 8 * 2 * cut.tiles <= cut.warps * cut.cells
        # Registers and a block's memory hold all weights.
        assert cut.block <= cut.most_threads <= 512
        assert 4 * cut.held * cut.groups * cut.pieces + 60 < 65536 // cut.most_threads
        depth, item = 4 * cut.units if cut.backward else cut.blocks * cut.units, plans.ITEM_BYTES[cut.product]
        assert depth * item <= 64 * cut.parts * cut.chunks < depth * item + 64 * cut.parts
        assert cut.held <= cut.chunks <= cut.held + cut.slots
        assert cut.warps * cut.groups * cut.slots * cut.pieces * 512 < cut.shared_bytes <= 232448
        assert cut.shared_bytes % 16 == 0
        # What one phase of a barrier can count.
        assert cut.rows * cut.blocks * cut.units * cut.parts * 4 < 2**20
        # No other cut would take less time, as far as is estimated.
        others = plans.cuts(cut.kernel, cut.stored, cut.product, N, H)
        assert all(cut.seconds(processors) <= other.seconds(processors) for other in others)


def test_how_large_h_can_be():
    assert [plans.most_units(*key) for key in KEYS] == [768, 768, 512, 512, 512]


def test_clusters_grow_with_h_and_rows_with_n():
    small, large = (plan("bfloat16", "ieee", 1, H, 132).forward for H in (64, 640))
    assert small.blocks < large.blocks == 16
    assert plan("bfloat16", "ieee", 4, 64, 132).forward.tiles == 1
    assert plan("float32", "tf32", 64, 512, 132).forward.tiles == 2
    kept = {"float16": ["float16", "float32", "float16", "float16"], "bfloat16": ["bfloat16"] * 4}
    for dtype, expected in kept.items():
        cuts = *plan(dtype, "ieee", 1, 512, 132), *plan(dtype, "ieee", 1, 768, 132)
        assert [part.kept for part in cuts] == expected


# Choice


def test_it_runs_when_it_is_named_and_is_not_chosen_by_itself(monkeypatch):
    """Where no device like this one has been measured."""
    machine = machine_of(monkeypatch, processors=100)
    assert engines.choose("auto", problem(machine)).name == "array_api"
    assert engines.choose("cupy_cluster", problem(machine)).name == "cupy_cluster"
    assert "proved" in engines.load("cupy_cluster").declines(problem(machine))


@pytest.mark.parametrize("precision", ["ieee", "tf32", "tf32x3"])
def test_a_precision_is_that_of_the_engine_that_is_loaded(precision):
    engine = engines.load("cupy_cluster", precision)
    assert engine.name == "cupy_cluster"
    assert getattr(engine, "precision", "ieee") == precision


@pytest.mark.parametrize(
    ("capability", "options", "reason"),
    [
        ("90", {"library": "numpy"}, "it needs CuPy arrays, these are numpy's"),
        ("90", {"dtype": "float64"}, "it computes float16, bfloat16, float32, not float64"),
        ("80", {}, "it needs compute capability 9.0, 10.0, 10.3, this device has 8.0"),
        ("120", {}, "it needs compute capability 9.0, 10.0, 10.3, this device has 12.0"),
        ("90", {"H": 513}, "a cluster holds Wh of float32 for H up to 512; H is 513"),
        ("90", {"H": 600, "precision": "tf32"}, "a cluster holds Wh of float32 for H up to 512; H is 600"),
        ("100", {"H": 769, "dtype": "bfloat16"}, "a cluster holds Wh of bfloat16 for H up to 768; H is 769"),
        ("90", {"N": 2**21, "H": 2**8}, "4 N H and N T must be below 2^31"),
    ],
)
def test_what_it_refuses(monkeypatch, capability, options, reason):
    machine = machine_of(monkeypatch, capability=capability)
    asked = problem(machine, **options)
    assert reason in engines.load("cupy_cluster", asked.precision).refuses(asked)
    with pytest.raises(EngineError, match="cupy_cluster"):
        engines.choose("cupy_cluster", problem(machine, **options))


@pytest.mark.parametrize("capability", cupy_cluster.CAPABILITIES)
def test_what_it_does_not_refuse(monkeypatch, capability):
    machine = machine_of(monkeypatch, capability=capability)
    for dtype, precision in KEYS:
        largest = 512 if dtype == "float32" else 768
        asked = problem(machine, dtype, precision=precision, H=largest)
        assert engines.load("cupy_cluster", precision).refuses(asked) == ""
