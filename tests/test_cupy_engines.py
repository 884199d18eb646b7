"""The engines for CuPy, their launches carried out on this processor: by NumPy, and by their CUDA source as C++.

What is emulated, and how strictly, is in fake_cupy.py. cuBLAS's and a GPU's own arithmetic is not: this is no proof
that the engines run on one.
"""

import gc
import threading
from types import SimpleNamespace

import fake_cupy
import numpy as np
import pytest
from on_fake import LIB, agree, forget, machine_of, plain
from problems import backward, compare, forward, orders, random_problem, reference, rounded, run, same_bits
from test_engines import BACKWARD, SIZES, arrays_of, engine_problem, rounded_as, run_engine

from lstm_xp import engines, recording
from lstm_xp.engines import cupy_rows
from lstm_xp.engines.cuda import memory
from lstm_xp.records import SequenceCache
from lstm_xp.testing import assert_close

DTYPES = ("float64", "float32", "float16", "bfloat16")
dtypes = pytest.mark.parametrize("dtype", DTYPES)
AWKWARD = [(33, 3, 129), (2, 33, 100), (1, 256, 64), (2, 7, 192), (4, 1, 1)]
CALLS = {
    "cupy_fused": {"gemmEx", "arrange", "cell_forward", "cell_backward"},  # of few steps
    "cupy_step": {"gemmEx", "arrange", "fill", "pack", "pack_rows", "forward_step", "backward_step"},
    "cupy_rows": {"gemmEx", "arrange", "rows_forward", "rows_backward"},
    "cupy_cluster": {"gemmEx", "arrange", "cluster_forward", "cluster_backward"},
    "cupy_grid": {"gemmEx", "arrange", "grid::forward", "grid::backward"},
}


@pytest.fixture(params=["cupy_fused", "cupy_step", "cupy_cluster", "cupy_grid", "cupy_rows"])
def cuda_engine(request):
    """Its name."""
    if request.param != "cupy_fused" and request.node.callspec.params.get("dtype") == "float64":
        pytest.skip(f"{request.param}: it does not compute float64")
    if request.param == "cupy_rows" and request.node.callspec.params.get("sizes", (0,))[-1] > cupy_rows.UNITS[-1]:
        pytest.skip("cupy_rows: H is too large")
    yield request.param
    forget()


# Of the fake: enough for H = 300 in one launch of cupy_grid, and so few that its blocks have several chains of rows.
PROCESSORS = 28


@pytest.fixture
def machine(monkeypatch, kernels_on_cpu):
    return machine_of(monkeypatch, kernels_on_cpu, processors=PROCESSORS)


@pytest.fixture(params=["C++", "NumPy"])
def each_machine(request, monkeypatch):
    """With the CUDA source compiled as C++, and with kernels written once more in terms of NumPy."""
    compiled = request.getfixturevalue("kernels_on_cpu") if request.param == "C++" else None
    return machine_of(monkeypatch, compiled, processors=PROCESSORS)


@dtypes
@pytest.mark.parametrize("sizes", [*SIZES, *AWKWARD], ids=str)
def test_results_are_those_of_the_reference(cuda_engine, each_machine, sizes, dtype):
    values = engine_problem(*sizes)
    expected = run_engine("array_api", rounded_as(values, dtype))
    agree(run_engine(cuda_engine, arrays_of(LIB, values, dtype)), expected, dtype, sizes[0])


@pytest.mark.parametrize("sizes", [(5, 4, 6), (40, 9, 33)], ids=str)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_gradients_of_float32_beside_half_types(cuda_engine, each_machine, dtype, sizes):
    """As where those of h_n were added to them."""
    values = engine_problem(*sizes)
    arrays = arrays_of(LIB, values, dtype) | {"dh": LIB.asarray(values["dh"], "float32")}
    agree(run_engine(cuda_engine, arrays), run_engine("array_api", rounded_as(values, dtype)), dtype, sizes[0])


def test_da_of_bfloat16_is_the_float32_result_rounded_to_nearest_even(cuda_engine, each_machine):
    """Of so many numbers, some lie just between two of the half type. And the product takes what is stored."""
    values = rounded_as(engine_problem(1, 160, 64), "bfloat16")
    values |= {name: 0 * values[name] for name in ("h0", "Wh")}
    half, full = (plain(run_engine(cuda_engine, arrays_of(LIB, values, dtype))) for dtype in ("bfloat16", "float32"))
    assert same_bits(half["da"], full["da"].astype(half["da"].dtype))
    values["Wh"][:, :64] = np.eye(64)
    half = plain(run_engine(cuda_engine, arrays_of(LIB, values, "bfloat16")))
    assert same_bits(half["dh0"], half["da"][0, :, :64].astype(np.float32))


@dtypes
def test_without_keeping_the_same_bits(cuda_engine, machine, dtype):
    arrays = arrays_of(LIB, engine_problem(7, 5, 9), dtype)
    kept, rest = (plain(run_engine(cuda_engine, arrays, keep)) for keep in (True, False))
    assert rest["c"] is None
    assert rest["gates"] is None
    assert all(same_bits(rest[name], kept[name]) for name in ("h", "c_n"))


@dtypes
@pytest.mark.parametrize("missing", [("dh",), ("dh_n",), ("dc_n",), ("dh", "dh_n"), ("dh_n", "dc_n"), ("dh", "dc_n")])
def test_gradients_that_are_not_given_are_zeros(cuda_engine, machine, missing, dtype):
    values = engine_problem(5, 4, 6)
    arrays = arrays_of(LIB, values, dtype)
    zeros = arrays | {name: LIB.asarray(np.zeros(arrays[name].shape), dtype) for name in missing}
    found, expected = (plain(run_engine(cuda_engine, given)) for given in (arrays | dict.fromkeys(missing), zeros))
    assert all(same_bits(found[name], expected[name]) for name in BACKWARD)


def odd_layouts(dh):
    """Arrays of the same numbers with other strides: as views of wider ones, broadcast, backwards."""
    T, N, H = dh.shape
    wide = np.zeros((T, N, 2 * H), dh.dtype).view(fake_cupy.Array)
    wide[..., ::2] = dh
    swapped = np.ascontiguousarray(np.moveaxis(dh, 0, 1)).view(fake_cupy.Array)
    columns = np.ascontiguousarray(np.moveaxis(dh, 2, 0)).view(fake_cupy.Array)
    return {
        "strided": wide[..., ::2],
        "batch-major": np.moveaxis(swapped, 1, 0),
        "units first": np.moveaxis(columns, 0, 2),
        "backwards": np.ascontiguousarray(dh[::-1]).view(fake_cupy.Array)[::-1],
    }


@pytest.mark.parametrize("layout", ["strided", "batch-major", "units first", "backwards"])
@dtypes
def test_gradients_of_any_strides(cuda_engine, machine, layout, dtype):
    arrays = arrays_of(LIB, engine_problem(5, 4, 6), dtype)
    expected = plain(run_engine(cuda_engine, arrays))
    found = plain(run_engine(cuda_engine, arrays | {"dh": odd_layouts(arrays["dh"])[layout]}))
    assert all(same_bits(found[name], expected[name]) for name in BACKWARD)


def test_a_gradient_that_is_one_number(cuda_engine, machine):
    """As the gradient of a sum is: strides of 0."""
    arrays = arrays_of(LIB, engine_problem(5, 4, 6), "float32")
    ones = np.ones((5, 4, 6), np.float32).view(fake_cupy.Array)
    single = np.broadcast_to(np.ones((1, 1, 1), np.float32).view(fake_cupy.Array), (5, 4, 6), subok=True)
    found, expected = (plain(run_engine(cuda_engine, arrays | {"dh": dh})) for dh in (single, ones))
    assert all(same_bits(found[name], expected[name]) for name in BACKWARD)


@pytest.mark.parametrize("layout", ["Fortran", "strided"])
def test_arguments_of_any_strides(cuda_engine, machine, layout):
    arrays = arrays_of(LIB, engine_problem(5, 4, 6), "float32")
    expected = plain(run_engine(cuda_engine, arrays))
    odd = {}
    for name, v in arrays.items():
        wide = np.zeros((*v.shape[:-1], 2 * v.shape[-1]), v.dtype).view(fake_cupy.Array)
        wide[..., ::2] = v
        odd[name] = np.asfortranarray(v).view(fake_cupy.Array) if layout == "Fortran" else wide[..., ::2]
    found = plain(run_engine(cuda_engine, odd))
    for name, result in found.items():
        assert_close(result, expected[name], steps=5, name=name, kind="gradient")


@dtypes
def test_saturated_gates_are_exact_and_nan_goes_through(cuda_engine, each_machine, dtype):
    values = engine_problem(2, 3, 4)
    values["a"][0, 0] = np.repeat([1e4, -1e4, 1e4, -1e4], 4)
    values["a"][0, 1, 0] = np.nan
    values["a"][0, 2] = np.inf
    values["Wh"] *= 0
    results = plain(run_engine(cuda_engine, arrays_of(LIB, values, dtype)))
    assert results["gates"][0, 0].tolist() == [1.0] * 4 + [0.0] * 4 + [1.0] * 4 + [-1.0] * 4
    assert np.isnan(results["gates"][0, 1, 0])
    assert np.isnan(results["h"].astype(np.float32)[0, 1, 0])
    assert np.all(np.isfinite(results["h"].astype(np.float32)[0, 0]))
    assert results["gates"][0, 2].tolist() == [1.0] * 16


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_nan_of_all_ones_stays_one(cuda_engine, machine, dtype):
    """As GPUs make them: rounded like a number, it would become -0."""
    arrays = arrays_of(LIB, engine_problem(1, 2, 3), dtype)
    arrays["a"].view(np.uint32)[...] = 0x7FFFFFFF
    assert np.all(np.isnan(np.asarray(run_engine(cuda_engine, arrays, keep=False)["h"], np.float32)))


@dtypes
def test_no_array_handed_in_or_out_is_written_to_later(cuda_engine, machine, dtype):
    first, second = (arrays_of(LIB, engine_problem(5, 4, 6, seed), dtype) for seed in (1, 2))
    before = plain(first)
    one = run_engine(cuda_engine, first)
    kept = plain(one)
    run_engine(cuda_engine, second)
    again = plain(run_engine(cuda_engine, first))
    for name in one:
        assert same_bits(np.array(np.asarray(one[name])), kept[name]), name
        assert same_bits(again[name], kept[name]), name
    assert all(same_bits(np.array(np.asarray(first[name])), before[name]) for name in first)
    machine.used()  # which looks at the guards of all memory


def test_tf32_is_another_result(cuda_engine, machine):
    arrays = arrays_of(LIB, engine_problem(3, 4, 60), "float32")
    exact, coarse = (plain(run_engine(engines.load(cuda_engine, precision), arrays)) for precision in ("ieee", "tf32"))
    difference = np.max(np.abs(exact["h"] - coarse["h"]))
    if cuda_engine == "cupy_rows":  # whose other stages alone have several
        assert difference == 0
    else:
        assert 1e-6 < difference < 1e-2


def whole(cuda_engine, at_once=True, precision="ieee"):
    """The engine for `lstm_forward` on NumPy's arrays, which become the fake's on the way in; whole calls `at_once`."""

    def given(v):
        if isinstance(v, SequenceCache):
            names = "x", "h0", "c0", "Wx", "Wh", "h", "c", "gates", "lengths"
            return v._replace(**{name: given(getattr(v, name)) for name in names})
        return v.view(fake_cupy.Array) if isinstance(v, np.ndarray) else v

    def taking(function):
        return lambda *arrays, **options: function(*map(given, arrays), **options)

    names = "forward", "backward", "inputs", "weight_gradients", "product"
    if at_once:
        names += "sequence", "gradients_suit", "sequence_gradients"
    parts = {name: taking(getattr(engines.load(cuda_engine, precision), name)) for name in names}
    return SimpleNamespace(name="fake", refuses=lambda problem: "", declines=lambda problem: "", **parts)


@orders
@dtypes
@pytest.mark.parametrize("at_once", [True, False])
def test_whole_sequences(cuda_engine, each_machine, order, dtype, at_once):
    values = random_problem(H=6)
    arrays = {name: np.asarray(LIB.asarray(value, dtype)) for name, value in values.items()}
    results = run(arrays, engine=whole(cuda_engine, at_once), **order)
    expected = reference(rounded(values, dtype), **order)
    compare({name: np.asarray(v) for name, v in results.items()}, expected, arrays["x"], 5)
    beside = set()
    if at_once:
        beside = {"factors"} | ({"rounded"} if dtype in ("float16", "bfloat16") else set())
        beside |= {"saturate", "restore", "last", "enter", "straight"} if "lengths" in order else set()
    assert {call[0] for call in each_machine.calls} == CALLS[cuda_engine] | beside
    each_machine.used()


@pytest.mark.parametrize("training", [True, False])
def test_recorded_calls(cuda_engine, machine, training):
    """The same as other calls, of what the arguments hold then; nobody else writes into what it keeps."""
    arrays = arrays_of(LIB, random_problem(H=6, T=12), "float32")
    options = {"engine": whole(cuda_engine), "training": training}

    def call():
        h, cache = forward(arrays, **options)
        return {"h": h, "c_n": cache.c_n} | (backward(arrays, cache) if training else {})

    _, _, graph, result = recording._captured(call)
    before = plain(call())
    for name, v in arrays_of(LIB, random_problem(H=6, T=12, seed=1), "float32").items():
        arrays[name][...] = v
    expected = plain(call())
    graph.launch()
    assert len(result) == (8 if training else 2)
    for name, v in plain(result).items():
        # cupy_fused launches its steps one by one there, whose sums are in another order.
        assert_close(v, expected[name], steps=12, name=name, kind="gradient")
        assert cuda_engine == "cupy_fused" or same_bits(v, expected[name]), name
        assert not same_bits(v, before[name]), name
    machine.used()


def test_a_call_that_cannot_be_recorded(machine):
    def waits():
        if fake_cupy.FAKE.streams[-1].is_capturing():
            raise RuntimeError("not while it captures")

    with pytest.raises(RuntimeError, match=r"^recorded: the call cannot be captured: not while it captures$"):
        recording._captured(waits)
    assert not machine.cublas.threads


def test_weight_gradients_of_half_types_do_not_overflow_on_the_way(cuda_engine, machine):
    """Rows whose terms, far beyond what float16 holds, cancel: with no weights the gates are alike, and x is not."""
    N, T, D, H = 2, 64, 3, 4
    x = np.full((N, T, D), 200.0, np.float16)
    x[1] = -200.0
    arrays = {"x": x, "Wx": np.zeros((D, 4 * H), np.float16), "Wh": np.zeros((H, 4 * H), np.float16)}
    arrays |= {"b": np.full(4 * H, 0.5, np.float16), "dh": np.full((N, T, H), 100.0, np.float16)}
    results = run(arrays, engine=whole(cuda_engine))
    assert np.max(np.abs(np.asarray(results["dWx"], np.float64))) < 0.01  # of sums of 1e5, in float32
    one_row = run({name: v[:1] if name in ("x", "dh") else v for name, v in arrays.items()} | {"x": x[:1] / 100},
                  engine=whole(cuda_engine))  # fmt: skip
    assert np.min(np.abs(np.asarray(one_row["dWx"], np.float64))) * 100 > np.finfo(np.float16).max


def test_the_device_of_the_arrays_is_made_current(cuda_engine, monkeypatch, kernels_on_cpu):
    machine = machine_of(monkeypatch, kernels_on_cpu, devices=2)
    values = engine_problem(3, 4, 6)
    expected = plain(run_engine(cuda_engine, arrays_of(LIB, values, "float32")))
    there = arrays_of(LIB, values, "float32")
    for array in there.values():
        array.place = machine.devices[1]
    results = run_engine(cuda_engine, there)
    for name, result in results.items():
        assert same_bits(np.array(np.asarray(result)), expected[name]), name
        assert result.device is machine.devices[1], name
    assert machine.current == [machine.devices[0]]
    assert len(machine.handles) == (2 if cuda_engine == "cupy_fused" else 0)


def test_several_threads_at_once(cuda_engine, machine):
    """Each with a handle of its own, and the same bits as one after the other."""
    problems = [arrays_of(LIB, engine_problem(20, 3, 8, seed), "float32") for seed in range(4)]
    expected = [plain(run_engine(cuda_engine, arrays)) for arrays in problems]
    found = [None] * 4

    together = threading.Barrier(4)

    def work(k):
        together.wait()
        found[k] = plain(run_engine(cuda_engine, problems[k]))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(found, expected, strict=True):
        assert all(same_bits(one[name], other[name]) for name in other)
    assert len(machine.handles) == (5 if cuda_engine == "cupy_fused" else 0)


@pytest.mark.parametrize("pass_", ["forward", "backward"])
def test_too_little_memory_is_said_and_nothing_leaks(cuda_engine, monkeypatch, kernels_on_cpu, pass_):
    machine = machine_of(monkeypatch, kernels_on_cpu, processors=PROCESSORS)
    arrays = arrays_of(LIB, engine_problem(50, 20, 30), "float32")
    engine = engines.load(cuda_engine)
    h, _, c, gates = engine.forward(arrays["a"].copy(), arrays["h0"], arrays["c0"], arrays["Wh"], keep=True)
    runs = {
        "forward": lambda: engine.forward(arrays["a"], arrays["h0"], arrays["c0"], arrays["Wh"], keep=True),
        "backward": lambda: engine.backward(arrays["dh"], None, None, gates, c, arrays["c0"], arrays["Wh"]),
    }
    runs[pass_]()  # everything that is handed in has been seen
    held = machine.used()
    left = set()
    machine.memory = held + 1000
    for _ in range(5):
        try:
            runs[pass_]()
        except MemoryError as error:
            told = str(error)
        else:
            pytest.fail("it had memory enough")
        gc.collect()  # what tracebacks refer to
        left.add(machine.used())
    assert len(left) == 1
    assert max(left) <= held  # what is kept for later calls is given up
    assert told.startswith(f"{cuda_engine}: {'h' if pass_ == 'forward' else 'da'}")
    assert told.endswith("a smaller batch needs less, or training=False where no gradients are wanted.")
    assert "\n" not in told
    machine.memory = fake_cupy.MEMORY
    runs[pass_]()
    assert machine.used() == held
    assert machine.current == [machine.devices[0]]
    assert h.shape == (50, 20, 30)


@pytest.mark.parametrize(
    ("name", "status", "told"),
    [
        ("CUDARuntimeError", 2, "need 0.00 GB"),  # no memory for a graph
        ("CUDADriverError", 2, "need 0.00 GB"),  # none for a kernel
        ("CUBLASError", 3, "need 0.00 GB"),  # none for cuBLAS
        ("CUDARuntimeError", 700, "as it was"),
        ("CUBLASError", 2, "as it was"),
    ],
)
def test_what_takes_memory_beside_arrays(machine, name, status, told):
    """Libraries of CUDA have their own words for it; other errors stay what they are."""
    error = type(name, (RuntimeError,), {"status": status})("as it was")
    expected = MemoryError if told != "as it was" else RuntimeError
    with pytest.raises(expected, match=told), memory.working_on(machine.devices[0], "it: parts", 1000):
        raise error
    assert machine.current == [machine.devices[0]]
