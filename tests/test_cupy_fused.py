"""The engine cupy_fused, its plan carried out on this processor: by NumPy, and with its CUDA source compiled as C++.

What is emulated, and how strictly, is in fake_cupy.py. cuBLAS's and a GPU's own arithmetic is not: this is no proof
that the engine runs on one.
"""

import gc
import threading
from types import SimpleNamespace

import fake_cupy
import numpy as np
import pytest
from problems import compare, orders, random_problem, reference, rounded, run, same_bits
from test_engines import BACKWARD, SIZES, arrays_of, engine_problem, rounded_as, run_engine

from lstm_xp import EngineError, engines
from lstm_xp.checks import COMPUTE_DTYPE, Problem
from lstm_xp.engines import array_api, cupy_fused
from lstm_xp.engines.cuda import kernels
from lstm_xp.libraries import Library
from lstm_xp.testing import assert_close, limit, relative_error

DTYPES = ("float64", "float32", "float16", "bfloat16")
dtypes = pytest.mark.parametrize("dtype", DTYPES)
IEEE, PEDANTIC, DOUBLE, TF32 = 68, 69, 70, 77
AWKWARD = [(33, 3, 129), (2, 33, 100), (1, 256, 64), (2, 7, 192), (4, 1, 1)]


class OnFake(Library):
    """NumPy's arrays, marked as those of the fake device."""

    def asarray(self, array, dtype=None):
        if dtype == "bfloat16":
            pytest.importorskip("ml_dtypes")
        return np.array(array).astype(fake_cupy.dtype_of(dtype or "float64")).view(fake_cupy.Array)


LIB = OnFake("fake", np, None)


def machine_of(monkeypatch, compiled=None, **options):
    """A fake machine, where CuPy would be."""
    machine = fake_cupy.Fake(compiled, **options)
    machine.install(monkeypatch)
    for kept in (kernels._module, kernels.function, cupy_fused.obstacle):
        kept.cache_clear()
    return machine


@pytest.fixture(autouse=True)
def _forget():
    """What is kept of a fake CuPy is kept for no other."""
    yield
    for kept in (kernels._module, kernels.function, cupy_fused.obstacle):
        kept.cache_clear()


@pytest.fixture
def machine(monkeypatch, kernels_on_cpu):
    return machine_of(monkeypatch, kernels_on_cpu)


@pytest.fixture(params=["C++", "NumPy"])
def each_machine(request, monkeypatch):
    """With the CUDA source compiled as C++, and with kernels written once more in terms of NumPy."""
    return machine_of(monkeypatch, request.getfixturevalue("kernels_on_cpu") if request.param == "C++" else None)


def plain(results):
    return {name: None if v is None else np.array(np.asarray(v)) for name, v in results.items()}


def agree(results, expected, dtype, steps):
    """Values within the limits of the caller's dtype; h has that dtype, and all else the one that is computed with."""
    for name, result in results.items():
        kind = "gradient" if name in BACKWARD else "forward"
        assert result.shape == expected[name].shape, name
        assert relative_error(result, expected[name]) <= limit(dtype, kind, steps), name
        assert result.dtype.name == (dtype if name == "h" else COMPUTE_DTYPE[dtype]), name


@dtypes
@pytest.mark.parametrize("sizes", [*SIZES, *AWKWARD], ids=str)
def test_results_are_those_of_the_reference(each_machine, sizes, dtype):
    values = engine_problem(*sizes)
    expected = run_engine("array_api", rounded_as(values, dtype))
    agree(run_engine(cupy_fused, arrays_of(LIB, values, dtype)), expected, dtype, sizes[0])


@dtypes
def test_without_keeping_the_same_bits(machine, dtype):
    arrays = arrays_of(LIB, engine_problem(7, 5, 9), dtype)
    kept, rest = (plain(run_engine(cupy_fused, arrays, keep)) for keep in (True, False))
    assert rest["c"] is None
    assert rest["gates"] is None
    assert all(same_bits(rest[name], kept[name]) for name in ("h", "c_n"))


@dtypes
@pytest.mark.parametrize("missing", [("dh",), ("dh_n",), ("dc_n",), ("dh", "dh_n"), ("dh_n", "dc_n"), ("dh", "dc_n")])
def test_gradients_that_are_not_given_are_zeros(machine, missing, dtype):
    values = engine_problem(5, 4, 6)
    arrays = arrays_of(LIB, values, dtype)
    zeros = arrays | {name: LIB.asarray(np.zeros(arrays[name].shape), dtype) for name in missing}
    found, expected = (plain(run_engine(cupy_fused, given)) for given in (arrays | dict.fromkeys(missing), zeros))
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
def test_gradients_of_any_strides(machine, layout, dtype):
    arrays = arrays_of(LIB, engine_problem(5, 4, 6), dtype)
    expected = plain(run_engine(cupy_fused, arrays))
    found = plain(run_engine(cupy_fused, arrays | {"dh": odd_layouts(arrays["dh"])[layout]}))
    assert all(same_bits(found[name], expected[name]) for name in BACKWARD)


def test_a_gradient_that_is_one_number(machine):
    """As the gradient of a sum is: strides of 0."""
    arrays = arrays_of(LIB, engine_problem(5, 4, 6), "float32")
    ones = np.ones((5, 4, 6), np.float32).view(fake_cupy.Array)
    single = np.broadcast_to(np.ones((1, 1, 1), np.float32).view(fake_cupy.Array), (5, 4, 6), subok=True)
    found, expected = (plain(run_engine(cupy_fused, arrays | {"dh": dh})) for dh in (single, ones))
    assert all(same_bits(found[name], expected[name]) for name in BACKWARD)


@pytest.mark.parametrize("layout", ["Fortran", "strided"])
def test_arguments_of_any_strides(machine, layout):
    arrays = arrays_of(LIB, engine_problem(5, 4, 6), "float32")
    expected = plain(run_engine(cupy_fused, arrays))
    odd = {}
    for name, v in arrays.items():
        wide = np.zeros((*v.shape[:-1], 2 * v.shape[-1]), v.dtype).view(fake_cupy.Array)
        wide[..., ::2] = v
        odd[name] = np.asfortranarray(v).view(fake_cupy.Array) if layout == "Fortran" else wide[..., ::2]
    found = plain(run_engine(cupy_fused, odd))
    for name, result in found.items():
        assert_close(result, expected[name], steps=5, name=name, kind="gradient")


@dtypes
def test_saturated_gates_are_exact_and_nan_goes_through(each_machine, dtype):
    values = engine_problem(2, 3, 4)
    values["a"][0, 0] = np.repeat([1e4, -1e4, 1e4, -1e4], 4)
    values["a"][0, 1, 0] = np.nan
    values["a"][0, 2] = np.inf
    values["Wh"] *= 0
    results = plain(run_engine(cupy_fused, arrays_of(LIB, values, dtype)))
    assert results["gates"][0, 0].tolist() == [1.0] * 4 + [0.0] * 4 + [1.0] * 4 + [-1.0] * 4
    assert np.isnan(results["gates"][0, 1, 0])
    assert np.isnan(results["h"].astype(np.float32)[0, 1, 0])
    assert np.all(np.isfinite(results["h"].astype(np.float32)[0, 0]))
    assert results["gates"][0, 2].tolist() == [1.0] * 16


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_h_is_the_float32_result_rounded_to_nearest_even(each_machine, dtype):
    """Of so many numbers, some lie just between two of the half type."""
    values = engine_problem(1, 500, 1000)
    values |= {name: 0 * values[name] for name in ("h0", "Wh")}
    narrow, wide = (arrays_of(LIB, values, given) for given in (dtype, "float32"))
    half, full = (run_engine(cupy_fused, given, keep=False)["h"] for given in (narrow, wide))
    expected = np.asarray(full).astype(half.dtype)
    assert same_bits(np.array(np.asarray(half)), expected)
    below = np.asarray(full).view(np.uint32) & 0xFFFF
    assert dtype != "bfloat16" or np.any(below == 0x8000)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_nan_of_all_ones_stays_one(machine, dtype):
    """As GPUs make them: rounded like a number, it would become -0."""
    arrays = arrays_of(LIB, engine_problem(1, 2, 3), dtype)
    arrays["a"].view(np.uint32)[...] = 0x7FFFFFFF
    assert np.all(np.isnan(np.asarray(run_engine(cupy_fused, arrays, keep=False)["h"], np.float32)))


@dtypes
def test_no_array_handed_in_or_out_is_written_to_later(machine, dtype):
    first, second = (arrays_of(LIB, engine_problem(5, 4, 6, seed), dtype) for seed in (1, 2))
    before = plain(first)
    one = run_engine(cupy_fused, first)
    kept = plain(one)
    run_engine(cupy_fused, second)
    again = plain(run_engine(cupy_fused, first))
    for name in one:
        assert same_bits(np.array(np.asarray(one[name])), kept[name]), name
        assert same_bits(again[name], kept[name]), name
    assert all(same_bits(np.array(np.asarray(first[name])), before[name]) for name in first)
    machine.used()  # which looks at the guards of all memory


def test_a_step_is_one_product_and_one_kernel(machine):
    run_engine(cupy_fused, arrays_of(LIB, engine_problem(7, 4, 6), "float32"))
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
    engine = cupy_fused.at(precision)
    run_engine(engine, arrays)
    engine.product(arrays["h0"], arrays["Wh"])
    assert {call[1] for call in machine.calls if call[0] == "gemmEx"} == {expected}
    assert machine.math_mode == math_mode


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_types_are_summed_in_float32(machine, dtype):
    """Forward from the half types themselves, backward from float32."""
    run_engine(cupy_fused, arrays_of(LIB, engine_problem(2, 4, 6), dtype))
    assert {call[1] for call in machine.calls if call[0] == "gemmEx"} == {IEEE}


def test_tf32_is_another_result(machine):
    arrays = arrays_of(LIB, engine_problem(3, 4, 60), "float32")
    exact, coarse = (plain(run_engine(cupy_fused.at(precision), arrays)) for precision in ("ieee", "tf32"))
    difference = np.max(np.abs(exact["h"] - coarse["h"]))
    assert 1e-6 < difference < 1e-2


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
        found = cupy_fused.product(left, right)
        assert_close(np.asarray(found), expected, like=np.asarray(A), kind="gradient")
    turned = cupy_fused.product(laid_out(B).T, laid_out(A).T)
    assert_close(np.asarray(turned), expected.T, like=np.asarray(A), kind="gradient")
    bias = LIB.asarray(np.arange(sizes[2]), dtype)
    found = cupy_fused.product(laid_out(A), B, bias)
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
    next_h, next_c = cupy_fused.step(**arrays)
    for name, found, expected in (("h", next_h, h[0]), ("c", next_c, c)):
        assert_close(np.asarray(found), expected, like=np.asarray(arrays["x"]), name=name)
    assert all(same_bits(np.array(np.asarray(arrays[name])), v) for name, v in before.items())


def whole_engine():
    """The engine for `lstm_forward` on NumPy's arrays, which become the fake's on the way in."""

    def taking(function):
        def run(*arrays, **options):
            return function(*(v if v is None else v.view(fake_cupy.Array) for v in arrays), **options)

        return run

    parts = {name: taking(getattr(cupy_fused, name)) for name in ("forward", "backward", "product")}
    return SimpleNamespace(name="fake", refuses=lambda problem: "", declines=lambda problem: "", **parts)


@orders
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_whole_sequences(machine, order, dtype):
    values = random_problem(H=6)
    arrays = {name: value.astype(dtype) for name, value in values.items()}
    results = run(arrays, engine=whole_engine(), **order)
    expected = reference(rounded(values, dtype), **order)
    compare({name: np.asarray(v) for name, v in results.items()}, expected, arrays["x"], 5)
    assert {"gemmEx", "cell_forward", "cell_backward"} == {call[0] for call in machine.calls}


def test_weight_gradients_of_half_types_do_not_overflow_on_the_way(machine):
    """Rows whose terms, far beyond what float16 holds, cancel: with no weights the gates are alike, and x is not."""
    N, T, D, H = 2, 64, 3, 4
    x = np.full((N, T, D), 200.0, np.float16)
    x[1] = -200.0
    arrays = {"x": x, "Wx": np.zeros((D, 4 * H), np.float16), "Wh": np.zeros((H, 4 * H), np.float16)}
    arrays |= {"b": np.full(4 * H, 0.5, np.float16), "dh": np.full((N, T, H), 100.0, np.float16)}
    results = run(arrays, engine=whole_engine())
    assert np.max(np.abs(np.asarray(results["dWx"], np.float64))) < 0.01  # of sums of 1e5, in float32
    one_row = run({name: v[:1] if name in ("x", "dh") else v for name, v in arrays.items()} | {"x": x[:1] / 100},
                  engine=whole_engine())  # fmt: skip
    assert np.min(np.abs(np.asarray(one_row["dWx"], np.float64))) * 100 > np.finfo(np.float16).max


@pytest.mark.parametrize("stride", [0, 4, 400])
def test_the_stride_along_a_side_of_one_is_any(machine, stride):
    """NumPy and CuPy leave it as it comes."""
    column, row = matrices(7, 1, 7, "float32")
    expected = np.asarray(column) @ np.asarray(row)
    odd_column = np.lib.stride_tricks.as_strided(column, (7, 1), (4, stride), subok=True)
    odd_row = np.lib.stride_tricks.as_strided(row, (1, 7), (stride, 4), subok=True)
    for left, right in ((odd_column, row), (column, odd_row), (odd_row.T, odd_column.T)):
        assert_close(np.asarray(cupy_fused.product(left, right)), np.asarray(left) @ np.asarray(right))
    assert_close(np.asarray(cupy_fused.product(odd_column, odd_row)), expected)
    out = LIB.asarray(np.zeros((7, 7)), "float32")
    assert_close(np.asarray(cupy_fused.product(odd_row, out + 1)), np.asarray(row) @ np.ones((7, 7), np.float32))
    assert_close(np.asarray(cupy_fused.product(out + 1, odd_column)), np.ones((7, 7), np.float32) @ np.asarray(column))


# Devices, threads, memory


def test_the_device_of_the_arrays_is_made_current(monkeypatch, kernels_on_cpu):
    machine = machine_of(monkeypatch, kernels_on_cpu, devices=2)
    values = engine_problem(3, 4, 6)
    expected = plain(run_engine(cupy_fused, arrays_of(LIB, values, "float32")))
    there = arrays_of(LIB, values, "float32")
    for array in there.values():
        array.place = machine.devices[1]
    results = run_engine(cupy_fused, there)
    for name, result in results.items():
        assert same_bits(np.array(np.asarray(result)), expected[name]), name
        assert result.device is machine.devices[1], name
    assert machine.current == [machine.devices[0]]
    assert len(machine.handles) == 2


def test_several_threads_at_once(machine):
    """Each with a handle of its own, and the same bits as one after the other."""
    problems = [arrays_of(LIB, engine_problem(20, 3, 8, seed), "float32") for seed in range(4)]
    expected = [plain(run_engine(cupy_fused, arrays)) for arrays in problems]
    found = [None] * 4

    together = threading.Barrier(4)

    def work(k):
        together.wait()
        found[k] = plain(run_engine(cupy_fused, problems[k]))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(found, expected, strict=True):
        assert all(same_bits(one[name], other[name]) for name in other)
    assert len(machine.handles) == 5


@pytest.mark.parametrize("pass_", ["forward", "backward"])
def test_too_little_memory_is_said_and_nothing_leaks(monkeypatch, kernels_on_cpu, pass_):
    machine = machine_of(monkeypatch, kernels_on_cpu)
    arrays = arrays_of(LIB, engine_problem(50, 20, 30), "float32")
    h, _, c, gates = cupy_fused.forward(arrays["a"].copy(), arrays["h0"], arrays["c0"], arrays["Wh"], keep=True)
    runs = {
        "forward": lambda: cupy_fused.forward(arrays["a"], arrays["h0"], arrays["c0"], arrays["Wh"], keep=True),
        "backward": lambda: cupy_fused.backward(arrays["dh"], None, None, gates, c, arrays["c0"], arrays["Wh"]),
    }
    runs[pass_]()  # everything that is handed in has been seen
    held = machine.used()
    machine.memory = held + 1000
    for _ in range(5):
        try:
            runs[pass_]()
        except MemoryError as error:
            told = str(error)
        else:
            pytest.fail("it had memory enough")
        gc.collect()  # what tracebacks refer to
        assert machine.used() == held
    assert told.startswith(
        "cupy_fused: h and c need 0.00 GB on cuda:0" if pass_ == "forward" else "cupy_fused: da need"
    )
    assert told.endswith("a smaller batch needs less, or training=False where no gradients are wanted.")
    assert "\n" not in told
    machine.memory = fake_cupy.MEMORY
    runs[pass_]()
    assert machine.used() == held
    assert machine.current == [machine.devices[0]]
    assert h.shape == (50, 20, 30)


def test_memory_is_what_is_returned(machine):
    """No workspace is kept between calls, nor grows with their number."""
    arrays = arrays_of(LIB, engine_problem(5, 4, 6), "float32")
    run_engine(cupy_fused, arrays)
    held = machine.used()
    for _ in range(3):
        run_engine(cupy_fused, arrays)
    assert machine.used() == held


# Choice


def problem(machine, dtype="float32", library="cupy", **sizes):
    sizes = {"N": 4, "T": 5, "D": 3, "H": 2} | sizes
    return Problem(library, dtype, machine.devices[0], *sizes.values(), True, "ieee")


def test_it_runs_when_it_is_named_and_is_not_chosen_by_itself(machine):
    """Until it has been proved on a GPU."""
    assert engines.candidates("cupy") == ("cupy_step", "cupy_fused", "array_api")
    assert engines.choose("auto", problem(machine)).name == "array_api"
    assert engines.choose("cupy_fused", problem(machine)).name == "cupy_fused"
    assert "proved" in cupy_fused.declines(problem(machine))


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
    assert reason in cupy_fused.refuses(problem(machine, **options))
    with pytest.raises(EngineError, match="cupy_fused"):
        engines.choose("cupy_fused", problem(machine, **options))


@pytest.mark.parametrize("capability", ["75", "80", "90", "100", "120"])
def test_what_it_does_not_refuse(monkeypatch, capability):
    machine = machine_of(monkeypatch, capability=capability)
    for dtype in DTYPES:
        if not (dtype == "bfloat16" and capability == "75"):
            assert cupy_fused.refuses(problem(machine, dtype)) == ""


@pytest.mark.parametrize("precision", ["ieee", "tf32", "tf32x3"])
def test_a_precision_is_that_of_the_engine_that_is_loaded(precision):
    engine = engines.load("cupy_fused", precision)
    assert engine.name == "cupy_fused"
    assert getattr(engine, "precision", "ieee") == ("tf32" if precision == "tf32" else "ieee")
