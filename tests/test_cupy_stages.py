"""Stages one and three of the engines for CuPy, on the fake device: `cuda/stages.py` and its kernel."""

import fake_cupy
import numpy as np
import pytest
from on_fake import LIB, forget, machine_of
from problems import rounded

from lstm_xp.engines.cuda import stages
from lstm_xp.testing import assert_close

DTYPES = ("float64", "float32", "float16", "bfloat16")
LAYOUTS = ("time-major", "batch-major", "backwards", "strided")
dtypes = pytest.mark.parametrize("dtype", DTYPES)
layouts = pytest.mark.parametrize("layout", LAYOUTS)
every_size = pytest.mark.parametrize("sizes", [(5, 3, 4, 7), (1, 3, 4, 7), (5, 1, 4, 7), (1, 1, 1, 1), (2, 3, 130, 33)])


@pytest.fixture(params=["C++", "NumPy"])
def machine(request, monkeypatch):
    compiled = request.getfixturevalue("kernels_on_cpu") if request.param == "C++" else None
    yield machine_of(monkeypatch, compiled)
    forget()


def values_of(T, N, D, H):
    rng = np.random.default_rng(0)
    shapes = {"x": (T, N, D), "h0": (N, H), "h": (T, N, H), "da": (T, N, 4 * H), "Wx": (D, 4 * H), "b": (4 * H,)}
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def laid_out(v, layout):
    """The numbers of v (T, N, K) in another order of memory."""
    T, N, K = v.shape
    if layout == "batch-major":
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(v, 0, 1)).view(fake_cupy.Array), 1, 0)
    if layout == "backwards":
        return np.ascontiguousarray(v[::-1]).view(fake_cupy.Array)[::-1]
    if layout == "strided":
        wide = np.full((T, N, 3 * K), np.nan, v.dtype).view(fake_cupy.Array)
        wide[..., ::3] = v
        return wide[..., ::3]
    return v


@dtypes
@layouts
@every_size
@pytest.mark.parametrize("bias", [True, False])
def test_inputs(machine, sizes, layout, dtype, bias):
    values = values_of(*sizes)
    exact = rounded(values, dtype)
    x, Wx, b = (LIB.asarray(values[name], dtype) for name in ("x", "Wx", "b"))
    wide = np.full((3 * b.shape[0],), np.nan, b.dtype).view(fake_cupy.Array)
    wide[::3] = b
    a = stages.IEEE.inputs(laid_out(x, layout), Wx, wide[::3] if bias else None)
    expected = exact["x"] @ exact["Wx"] + (exact["b"] if bias else 0)
    assert a.dtype == ("float64" if dtype == "float64" else "float32")
    assert a.shape == expected.shape
    assert_close(np.asarray(a), expected, like=np.asarray(a), kind="gradient")
    copied = layout != "time-major" and not laid_out(x, layout).flags.c_contiguous
    assert [call[0] for call in machine.calls] == ["arrange"] * (bias or copied) + ["gemmEx"]
    machine.used()


@pytest.mark.parametrize(("dtype", "of_da"), [("float64", "float64"), ("float32", "float32"), ("float16", "float32"),
                                              ("bfloat16", "bfloat16")])  # fmt: skip
@layouts
@every_size
def test_weight_gradients(machine, sizes, layout, dtype, of_da):
    (T, N, D, H), values = sizes, values_of(*sizes)
    wide = "float64" if dtype == "float64" else "float32"
    exact = rounded({name: values[name] for name in ("x", "h0", "h")}, dtype) | rounded({"da": values["da"]}, of_da)
    x, h0, h = (LIB.asarray(values[name], dtype) for name in ("x", "h0", "h"))
    da = LIB.asarray(values["da"], of_da)
    found = stages.IEEE.weight_gradients(laid_out(x, layout), h0, laid_out(h, layout), da)
    prev_h = np.concatenate([exact["h0"][None], exact["h"][:-1]])
    rows = exact["da"].reshape(T * N, 4 * H)
    expected = exact["x"].reshape(T * N, D).T @ rows, prev_h.reshape(T * N, H).T @ rows, rows.sum(axis=0)
    for name, one, other in zip(("dWx", "dWh", "db"), found, expected, strict=True):
        assert one.dtype == wide
        assert one.shape == other.shape
        assert_close(np.asarray(one), other, like=np.zeros(0, wide), name=name, kind="gradient")
    machine.used()


def test_dx_of_bfloat16_is_rounded_once(machine):
    """By cuBLAS, from sums of float32."""
    values = values_of(5, 3, 4, 70)
    da, Wx = (LIB.asarray(values[name], "bfloat16") for name in ("da", "Wx"))
    dx = np.asarray(stages.IEEE.product(da.reshape(15, 280), Wx.T))
    sums = np.asarray(da, np.float32).reshape(15, 280) @ np.asarray(Wx, np.float32).T
    assert dx.dtype == da.dtype
    assert np.mean(dx != sums.astype(dx.dtype)) < 0.05  # in another order, a few sums fall on the other side
    assert_close(dx, sums.astype(dx.dtype))


def test_the_sums_of_a_bias_are_not_rounded_to_tf32(machine):
    values = values_of(5, 3, 4, 7)
    x, h0, h, da = (LIB.asarray(values[name], "float32") for name in ("x", "h0", "h", "da"))
    *_, exact = stages.IEEE.weight_gradients(x, h0, h, da)
    dWx, *_, db = stages.TF32.weight_gradients(x, h0, h, da)
    assert np.array_equal(np.asarray(db), np.asarray(exact))
    assert not np.array_equal(np.asarray(dWx), np.asarray(stages.IEEE.weight_gradients(x, h0, h, da)[0]))
