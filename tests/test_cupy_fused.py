"""The engine cupy_fused: what it alone does. What all engines for CuPy do is in test_cupy_engines.py."""

import fake_cupy
import numpy as np
import pytest
from on_fake import LIB, forget, machine_of, problem
from problems import rounded, same_bits
from test_engines import arrays_of, engine_problem, run_engine

from lstm_xp import EngineError, engines
from lstm_xp.engines import array_api, cupy_fused
from lstm_xp.testing import assert_close

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
    half, full = (run_engine(cupy_fused, given, keep=False)["h"] for given in (narrow, wide))
    expected = np.asarray(full).astype(half.dtype)
    assert same_bits(np.array(np.asarray(half)), expected)
    below = np.asarray(full).view(np.uint32) & 0xFFFF
    assert dtype != "bfloat16" or np.any(below == 0x8000)


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


def test_memory_is_what_is_returned(machine):
    """No workspace is kept between calls, nor grows with their number."""
    arrays = arrays_of(LIB, engine_problem(5, 4, 6), "float32")
    run_engine(cupy_fused, arrays)
    held = machine.used()
    for _ in range(3):
        run_engine(cupy_fused, arrays)
    assert machine.used() == held


# Choice


def test_it_runs_when_it_is_named_and_is_not_chosen_by_itself(machine):
    """Until it has been proved on a GPU."""
    assert engines.candidates("cupy") == ("cupy_cluster", "cupy_grid", "cupy_step", "cupy_fused", "array_api")
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
