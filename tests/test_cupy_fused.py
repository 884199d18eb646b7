"""The engine cupy_fused: what it alone does. What all engines for CuPy do is in test_cupy_engines.py."""

import threading
import time
import warnings

import fake_cupy
import numpy as np
import pytest
from on_fake import LIB, agree, forget, machine_of, plain, problem
from problems import rounded, same_bits
from test_engines import BACKWARD, arrays_of, engine_problem, rounded_as, run_engine

from lstm_xp import EngineError, engines
from lstm_xp.engines import array_api
from lstm_xp.engines.cuda import blas, capture, chunks, leases
from lstm_xp.testing import assert_close

ENGINE = engines.load("cupy_fused")
DTYPES = ("float64", "float32", "float16", "bfloat16")
dtypes = pytest.mark.parametrize("dtype", DTYPES)
IEEE, PEDANTIC, DOUBLE, TF32 = 68, 69, 70, 77


@pytest.fixture
def machine(monkeypatch, kernels_on_cpu):
    yield machine_of(monkeypatch, kernels_on_cpu)
    forget()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_h_is_the_float32_result_rounded_to_nearest_even(machine, dtype):
    """Of so many numbers, some lie just between two of the half type."""
    values = engine_problem(1, 500, 1000)
    values |= {name: 0 * values[name] for name in ("h0", "Wh")}
    narrow, wide = (arrays_of(LIB, values, given) for given in (dtype, "float32"))
    half, full = (run_engine("cupy_fused", given, keep=False)["h"] for given in (narrow, wide))
    expected = np.asarray(full).astype(half.dtype)
    assert same_bits(np.array(np.asarray(half)), expected)
    below = np.asarray(full).view(np.uint32) & 0xFFFF
    assert dtype != "bfloat16" or np.any(below == 0x8000)


def test_a_step_is_one_product_and_one_kernel(machine):
    run_engine("cupy_fused", arrays_of(LIB, engine_problem(7, 4, 6), "float32"))
    found = [call[0] for call in machine.calls]
    assert found == ["gemmEx", "cell_forward"] * 7 + ["cell_backward", "gemmEx"] * 7
    assert len(machine.modules) == 1


@pytest.mark.parametrize(
    ("dtype", "precision", "math_mode", "expected"),
    [
        ("float32", "ieee", 0, IEEE),
        ("float32", "ieee", 3, PEDANTIC),  # someone allowed TF32 for the whole handle
        ("float32", "tf32", 0, TF32),
        ("float32", "tf32x3", 0, IEEE),
        ("float64", "tf32", 0, DOUBLE),
        ("float64", "ieee", 3, DOUBLE),
    ],
)
def test_the_precision_of_products(machine, dtype, precision, math_mode, expected):
    machine.math_mode = math_mode
    arrays = arrays_of(LIB, engine_problem(2, 4, 6), dtype)
    engine = engines.load("cupy_fused", precision)
    run_engine(engine, arrays)
    engine.product(arrays["h0"], arrays["Wh"])
    assert {call[1] for call in machine.calls if call[0] == "gemmEx"} == {expected}
    assert machine.math_mode == math_mode


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_types_are_summed_in_float32(machine, dtype):
    """Forward from the half types themselves, backward from float32 or bfloat16."""
    run_engine("cupy_fused", arrays_of(LIB, engine_problem(2, 4, 6), dtype))
    assert {call[1] for call in machine.calls if call[0] == "gemmEx"} == {IEEE}


def matrices(M, K, N, dtype):
    rng = np.random.default_rng(0)
    return LIB.asarray(rng.standard_normal((M, K)), dtype), LIB.asarray(rng.standard_normal((K, N)), dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", ["C", "Fortran", "strided", "sliced"])
@pytest.mark.parametrize("sizes", [(5, 7, 3), (1, 7, 3), (5, 1, 3), (5, 7, 1), (1, 1, 1), (33, 64, 129)], ids=str)
def test_products(machine, sizes, layout, dtype):
    A, B = matrices(*sizes, dtype)
    expected = np.asarray(A).astype(np.float64) @ np.asarray(B).astype(np.float64)

    def laid_out(v):
        if layout == "Fortran":
            return np.asfortranarray(v).view(fake_cupy.Array)
        wide = np.full((2 * v.shape[0], 3 * v.shape[1]), np.nan, v.dtype).view(fake_cupy.Array)
        part = {"C": wide[:0], "strided": wide[::2, ::3], "sliced": wide[: v.shape[0], : v.shape[1]]}[layout]
        if layout == "C":
            return v
        part[...] = v
        return part

    for left, right in ((laid_out(A), B), (A, laid_out(B)), (laid_out(A), laid_out(B))):
        found = ENGINE.product(left, right)
        assert_close(np.asarray(found), expected, like=np.asarray(A), kind="gradient")
    turned = ENGINE.product(laid_out(B).T, laid_out(A).T)
    assert_close(np.asarray(turned), expected.T, like=np.asarray(A), kind="gradient")
    bias = LIB.asarray(np.arange(sizes[2]), dtype)
    found = ENGINE.product(laid_out(A), B, bias)
    assert_close(np.asarray(found), expected + np.asarray(bias), like=np.asarray(A), kind="gradient")


@pytest.mark.parametrize("bias", [True, False])
@dtypes
def test_a_step_of_a_stream(machine, dtype, bias):
    N, D, H = 3, 5, 7
    rng = np.random.default_rng(0)
    shapes = {"x": (N, D), "h": (N, H), "c": (N, H), "Wx": (D, 4 * H), "Wh": (H, 4 * H), "b": (4 * H,)}
    values = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    if not bias:
        values["b"] = np.zeros(4 * H)
    exact = rounded(values, dtype)
    a = exact["x"] @ exact["Wx"] + exact["b"]
    h, c, *_ = array_api.forward(a[None], exact["h"], exact["c"], exact["Wh"], keep=True)
    arrays = {name: LIB.asarray(value, dtype) for name, value in values.items()}
    if not bias:
        arrays["b"] = None
    before = {name: np.array(np.asarray(v)) for name, v in arrays.items() if v is not None}
    next_h, next_c = ENGINE.step(**arrays)
    for name, found, expected in (("h", next_h, h[0]), ("c", next_c, c)):
        assert_close(np.asarray(found), expected, like=np.asarray(arrays["x"]), name=name)
    assert all(same_bits(np.array(np.asarray(arrays[name])), v) for name, v in before.items())


@pytest.mark.parametrize("stride", [0, 4, 400])
def test_the_stride_along_a_side_of_one_is_any(machine, stride):
    """NumPy and CuPy leave it as it comes."""
    column, row = matrices(7, 1, 7, "float32")
    expected = np.asarray(column) @ np.asarray(row)
    odd_column = np.lib.stride_tricks.as_strided(column, (7, 1), (4, stride), subok=True)
    odd_row = np.lib.stride_tricks.as_strided(row, (1, 7), (stride, 4), subok=True)
    for left, right in ((odd_column, row), (column, odd_row), (odd_row.T, odd_column.T)):
        assert_close(np.asarray(ENGINE.product(left, right)), np.asarray(left) @ np.asarray(right))
    assert_close(np.asarray(ENGINE.product(odd_column, odd_row)), expected)
    out = LIB.asarray(np.zeros((7, 7)), "float32")
    assert_close(np.asarray(ENGINE.product(odd_row, out + 1)), np.asarray(row) @ np.ones((7, 7), np.float32))
    assert_close(np.asarray(ENGINE.product(out + 1, odd_column)), np.ones((7, 7), np.float32) @ np.asarray(column))


def test_memory_is_what_is_returned(machine):
    """No workspace is kept between calls, nor grows with their number."""
    arrays = arrays_of(LIB, engine_problem(5, 4, 6), "float32")
    run_engine("cupy_fused", arrays)
    held = machine.used()
    for _ in range(3):
        run_engine("cupy_fused", arrays)
    assert machine.used() == held


# Replayed steps


def numbers_of(machine, name):
    return [call[1] for call in machine.calls if call[0] == name]


def agrees(arrays, values, dtype, T, **options):
    expected = run_engine("array_api", rounded_as(values, dtype), **options)
    agree(run_engine("cupy_fused", arrays, **options), expected, dtype, T)


@pytest.mark.parametrize("compiled", [True, False], ids=["C++", "NumPy"])
@pytest.mark.parametrize("T", [1, 2, 7, 8, 33, 100])
@dtypes
def test_any_number_of_steps(monkeypatch, kernels_on_cpu, dtype, T, compiled):
    """The same result whether they are launched one by one or replayed, kept or not."""
    machine = machine_of(monkeypatch, kernels_on_cpu if compiled else None)
    values = engine_problem(T, 3, 5)
    arrays = arrays_of(LIB, values, dtype)
    agrees(arrays, values, dtype, T)
    kept = plain(run_engine("cupy_fused", arrays))
    assert same_bits(plain(run_engine("cupy_fused", arrays, keep=False))["h"], kept["h"])
    assert bool(numbers_of(machine, "graph")) == (T >= chunks.FEWEST)
    monkeypatch.setattr(blas, "loaded", lambda: None)
    machine.calls.clear()
    agrees(arrays, values, dtype, T)
    assert not numbers_of(machine, "graph")
    machine.used()
    forget()


@pytest.mark.parametrize(
    ("T", "graphs"), [(8, [8]), (15, [8, 4, 2, 1]), (32, [32]), (33, [32, 1]), (100, [32, 32, 32, 4])]
)
def test_graphs_are_of_powers_of_two(machine, T, graphs):
    """And each is captured once, forward and backward; nothing is launched beyond the last step."""
    values = engine_problem(T, 2, 3)
    arrays = arrays_of(LIB, values, "float32")
    agrees(arrays, values, "float32", T)
    assert chunks.lengths(T) == graphs
    assert numbers_of(machine, "graph") == [2 * length for length in graphs] * 2
    assert numbers_of(machine, "captured") == sorted({2 * length for length in graphs}) * 2
    machine.calls.clear()
    agrees(arrays, values, "float32", T)
    assert not numbers_of(machine, "captured")
    counts = [call[0] for call in machine.calls]
    assert counts.count("fill_chunk") == counts.count("graph") == 2 * len(graphs)
    assert counts.count("chunk_forward") == counts.count("chunk_backward") == T


def test_other_numbers_of_steps_and_other_arrays(machine):
    """Graphs are of any arrays: those of now, of one capture."""
    for seed, T in enumerate((63, 9, 100, 33)):
        values = engine_problem(T, 2, 3, seed)
        agrees(arrays_of(LIB, values, "float32"), values, "float32", T)
    assert len(numbers_of(machine, "captured")) == 2 * 6


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_two_forwards_before_one_backward(machine, dtype):
    """The second one's replays write into nothing of the first."""
    one, two = (arrays_of(LIB, engine_problem(40, 3, 5, seed), dtype) for seed in (1, 2))
    expected = [plain(run_engine("cupy_fused", arrays)) for arrays in (one, two)]
    kept = [ENGINE.forward(v["a"].copy(), v["h0"], v["c0"], v["Wh"], keep=True) for v in (one, two)]
    found = []
    for arrays, (_, _, c, gates) in zip((one, two), kept, strict=True):
        gradients = arrays["dh"], arrays["dh_n"], arrays["dc_n"]
        found.append(ENGINE.backward(*gradients, gates, c, arrays["c0"], arrays["Wh"]))
    for results, (h, *_), right in zip(found, kept, expected, strict=True):
        assert same_bits(np.array(np.asarray(h)), right["h"])
        for name, value in zip(BACKWARD, results, strict=True):
            assert same_bits(np.array(np.asarray(value)), right[name]), name


@pytest.mark.parametrize(("dtype", "stored"), [("float16", "float"), ("bfloat16", "bfloat16")])
def test_gradients_of_float32_beside_half_types(machine, dtype, stored):
    """As where those of h_n were added to them."""
    values = engine_problem(20, 3, 5)
    arrays = arrays_of(LIB, values, dtype) | {"dh": LIB.asarray(values["dh"], "float32")}
    agrees(arrays, values, dtype, 20)
    assert {call[1] for call in machine.calls if call[0] == "chunk_backward"} == {f"float, float, {stored}, 4"}


def steps_of(**changed):
    dtype = np.dtype("float32")
    return chunks.Steps(False, dtype, dtype, dtype, 3, 5, "ieee")._replace(**changed)


def test_products_that_are_replayed_have_the_precision_of_the_engine(machine):
    values = engine_problem(8, 3, 5)
    for precision, compute in (("ieee", IEEE), ("tf32", TF32)):
        machine.calls.clear()
        run_engine(engines.load("cupy_fused", precision), arrays_of(LIB, values, "float32"))
        assert {arguments[-1] for arguments in machine.cublas.multiplied} == {compute}
        machine.cublas.multiplied.clear()
    for dtype, kinds in (("float16", {2, 0}), ("bfloat16", {14})):
        machine.cublas.multiplied.clear()
        run_engine("cupy_fused", arrays_of(LIB, values, dtype))
        assert {(arguments[7], arguments[-1]) for arguments in machine.cublas.multiplied} == {(k, IEEE) for k in kinds}


@pytest.mark.parametrize(
    ("backward", "dtype", "precision", "turned"),
    [
        (False, "float32", "tf32", True),
        (False, "float32", "ieee", False),
        (False, "bfloat16", "tf32", False),
        (True, "float32", "tf32", False),
    ],
)
def test_how_the_factors_of_products_lie(machine, backward, dtype, precision, turned):
    """Where products are TF32's, what is summed lies side by side: backward, rows of Wh; forward, its columns."""
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    steps = steps_of(backward=backward, factors=fake_cupy.dtype_of(dtype), precision=precision)
    runner = chunks.Runner(steps)
    assert runner.Wh.shape == (5, 20)
    assert runner.Wh.T.flags.c_contiguous == turned
    assert runner.result.shape == ((4, 3, 5) if backward else (1, 3, 20))
    A, B, _ = runner._product.arrays
    assert all(np.shares_memory(v, kept) for v, kept in ((A, runner.factor), (B, runner.Wh)))


@pytest.mark.parametrize("T", [8, 33])
def test_the_backward_product_is_made_of_one_part_of_each_gate(machine, T):
    """In one call, with as much depth as forward; with weights of each gate that are far from those of the others."""
    values = engine_problem(T, 3, 5)
    values["Wh"] = values["Wh"] * np.repeat([1, 10, 0.1, 3], 5)
    agrees(arrays_of(LIB, values, "float64"), values, "float64", T)
    every = {arguments for arguments in machine.cublas.multiplied if len(arguments) == 21}
    ((*_, count, _),) = every
    assert count == chunks.PARTS == 4
    assert {arguments[2:5] for arguments in every} == {(5, 3, 5)}


def test_what_is_kept_is_bounded(machine, monkeypatch):
    needed = steps_of().packed_bytes
    assert needed == chunks.CHUNK_BYTES + blas.WORKSPACE_BYTES + 4 * (3 * 5 + 5 * 20 + 3 * 20)
    backward = steps_of(backward=True).packed_bytes
    assert backward == chunks.CHUNK_BYTES + blas.WORKSPACE_BYTES + 4 * (3 * 20 + 20 * 5 + 4 * 3 * 5)
    held = machine.used()
    with chunks.leased(steps_of(), 8) as runner:
        assert runner.steps == steps_of()
        assert machine.used() - held == needed
    monkeypatch.setattr(leases, "KEPT_BYTES", 2 * needed)
    for H in (5, 4, 3, 2):
        with chunks.leased(steps_of(H=H), 8) as runner:
            assert runner
    assert [key[-1].H for key, _ in leases._idle] == [3, 2]
    with chunks.leased(steps_of(H=4000), 8) as runner:
        assert runner is None  # too large to be kept: its steps take long enough


def test_runners_are_of_a_thread_and_a_stream_and_of_one_precision(machine):
    with chunks.leased(steps_of(), 8) as first, chunks.leased(steps_of(), 8) as second:
        assert first is not second
    with chunks.leased(steps_of(precision="tf32"), 8) as other:
        assert other not in (first, second)
    with fake_cupy.Stream(non_blocking=True), chunks.leased(steps_of(), 8) as elsewhere:
        assert elsewhere not in (first, second)
    with chunks.leased(steps_of(), 8) as again:
        assert again in (first, second)
    with pytest.raises(ZeroDivisionError), chunks.leased(steps_of(N=7), 8):
        raise ZeroDivisionError
    assert 7 not in [key[-1].N for key, _ in leases._idle]


def test_each_device_has_one_handle(monkeypatch, kernels_on_cpu):
    machine = machine_of(monkeypatch, kernels_on_cpu, devices=2)
    values = engine_problem(9, 3, 5)
    for device in (*machine.devices, *machine.devices):
        arrays = arrays_of(LIB, values, "float32")
        for array in arrays.values():
            array.place = device
        agrees(arrays, values, "float32", 9)
    assert [used.device for used in machine.cublas.handles.values()] == machine.devices
    forget()


def test_where_capture_fails_steps_are_launched_one_by_one(machine):
    """And that is said once; an error that says that there is no memory is one."""
    values = engine_problem(9, 3, 5)
    machine.cublas.status = 3
    with pytest.raises(MemoryError, match="cupy_fused: h and c"):
        run_engine("cupy_fused", arrays_of(LIB, values, "float32"))
    machine.cublas.status = 15
    with pytest.warns(RuntimeWarning, match="one by one on cuda:0, for they could not be captured: status 15"):
        agrees(arrays_of(LIB, values, "float32"), values, "float32", 9)
    assert not leases._idle
    agrees(arrays_of(LIB, values, "float32"), values, "float32", 9)
    assert not numbers_of(machine, "graph")


def test_a_capture_that_was_spoiled_is_tried_once_more(machine):
    values = engine_problem(9, 3, 5)
    machine.spoiled = 1
    agrees(arrays_of(LIB, values, "float32"), values, "float32", 9)
    assert numbers_of(machine, "graph") == [16, 2] * 2
    forget()
    machine.spoiled = 2
    with pytest.warns(RuntimeWarning, match="could not be captured: cudaErrorStreamCaptureInvalidated"):
        agrees(arrays_of(LIB, values, "float32"), values, "float32", 9)


def test_threads_capture_one_after_the_other(machine, monkeypatch):
    """And none makes a handle of cuBLAS, or sets the stream of ours, while another captures."""
    count, failed, begun = 6, [], threading.Event()
    values = [engine_problem(9, 3, 5, seed) for seed in range(count)]
    captured = capture._captured

    def slowly(launch):
        return captured(lambda: (begun.set(), time.sleep(0.02), launch()))

    monkeypatch.setattr(capture, "_captured", slowly)
    together = threading.Barrier(count)

    def work(k):
        try:
            together.wait()
            if k % 2:  # a new thread, while another captures
                begun.wait(60)
            with fake_cupy.Stream(non_blocking=True):
                arrays = arrays_of(LIB, values[k], "float32")
                ENGINE.product(arrays["h0"], arrays["Wh"])
                agrees(arrays, values[k], "float32", 9)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(count)]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failed
    assert not told
    assert len(numbers_of(machine, "captured")) == 2 * 2 * count


def test_where_cublas_is_not_found_steps_are_launched_one_by_one(machine, monkeypatch):
    monkeypatch.undo()
    machine.install(monkeypatch)
    blas.loaded.cache_clear()
    assert blas.loaded() is None  # the fake's module has no file
    values = engine_problem(9, 3, 5)
    agrees(arrays_of(LIB, values, "float32"), values, "float32", 9)
    assert not numbers_of(machine, "graph")
    blas.loaded.cache_clear()


# Choice


def test_it_runs_when_it_is_named_and_is_not_chosen_by_itself(monkeypatch):
    """Where no device like this one has been measured."""
    machine = machine_of(monkeypatch, processors=100)
    assert engines.candidates("cupy")[-2:] == ("cupy_fused", "array_api")
    assert engines.choose("auto", problem(machine)).name == "array_api"
    assert engines.choose("cupy_fused", problem(machine)).name == "cupy_fused"
    assert "proved" in ENGINE.declines(problem(machine))


@pytest.mark.parametrize(
    ("capability", "options", "reason"),
    [
        ("90", {"library": "numpy"}, "it needs CuPy arrays, these are numpy's"),
        ("90", {"dtype": "complex128"}, "not complex128"),
        ("70", {}, "float32 needs compute capability 7.5, this device has 7.0"),
        ("75", {"dtype": "bfloat16"}, "bfloat16 needs compute capability 8.0, this device has 7.5"),
        ("120", {"N": 2**20, "H": 2**10}, "4 N H and N T must be below 2^31"),
    ],
)
def test_what_it_refuses(monkeypatch, capability, options, reason):
    machine = machine_of(monkeypatch, capability=capability)
    assert reason in ENGINE.refuses(problem(machine, **options))
    with pytest.raises(EngineError, match="cupy_fused"):
        engines.choose("cupy_fused", problem(machine, **options))


@pytest.mark.parametrize("capability", ["75", "80", "90", "100", "120"])
def test_what_it_does_not_refuse(monkeypatch, capability):
    machine = machine_of(monkeypatch, capability=capability)
    for dtype in DTYPES:
        if not (dtype == "bfloat16" and capability == "75"):
            assert ENGINE.refuses(problem(machine, dtype)) == ""


@pytest.mark.parametrize("precision", ["ieee", "tf32", "tf32x3"])
def test_a_precision_is_that_of_the_engine_that_is_loaded(precision):
    engine = engines.load("cupy_fused", precision)
    assert (engine.name, engine.precision) == ("cupy_fused", "tf32" if precision == "tf32" else "ieee")
