"""Engines of one launch on a GPU: what no emulation shows. Sizes that take up all of what they need, or nearly."""

import numpy as np
import pytest
from problems import same_bits
from test_engines import arrays_of, engine_problem, run_engine

from lstm_xp import engines
from lstm_xp.checks import Problem
from lstm_xp.engines.cuda import device, grid
from lstm_xp.engines.cuda.grid_plan import PRODUCTS, most_units

on_device = pytest.mark.parametrize("name", ["cupy"])
numbers = pytest.mark.parametrize(("dtype", "precision"), PRODUCTS)


# Engine -> units.
UNITS = {"cupy_grid": 700, "cupy_cluster": 500}
both = pytest.mark.parametrize("persistent", UNITS)


@pytest.fixture
def gpu(library, name, request):
    lib, engine = library(name), request.node.callspec.params.get("persistent", "cupy_grid")
    asked = Problem("cupy", "float32", lib.device, 20, 30, 3, UNITS[engine], True, "ieee")
    reason = engines.load(engine).refuses(asked)
    if reason:
        pytest.skip(reason)
    return lib


def host(results):
    """Copied, so that results on the device stay where they are."""
    return {name: v.get() for name, v in results.items()}


@on_device
@both
@numbers
def test_a_thousand_times_the_same_bits(gpu, persistent, dtype, precision):
    engine = engines.load(persistent, precision)
    arrays = arrays_of(gpu, engine_problem(30, 20, UNITS[persistent]), dtype)
    expected = run_engine(engine, arrays)
    for _ in range(999):
        found = run_engine(engine, arrays)
        assert all(bool((found[name].view("uint8") == expected[name].view("uint8")).all()) for name in found)
    grid.check("cupy_grid")


@on_device
@both
@numbers
def test_on_several_streams_at_once(gpu, persistent, dtype, precision):
    """Launches of cupy_grid need the whole device, each: they come one after the other, and none waits in vain."""
    import cupy

    engine = engines.load(persistent, precision)
    problems = [arrays_of(gpu, engine_problem(50, 20, UNITS[persistent], seed), dtype) for seed in (1, 2, 3)]
    expected = [host(run_engine(engine, arrays)) for arrays in problems]
    cupy.cuda.Device().synchronize()
    streams, found = [cupy.cuda.Stream(non_blocking=True) for _ in problems], [None] * 3
    for _ in range(20):
        for k, stream in enumerate(streams):
            with stream:
                found[k] = run_engine(engine, problems[k])
    cupy.cuda.Device().synchronize()
    for one, right in zip(map(host, found), expected, strict=True):
        assert all(same_bits(one[name], right[name]) for name in right)
    grid.check("cupy_grid")


@on_device
@numbers
def test_a_launch_that_is_given_up_leaves_the_device_usable(gpu, monkeypatch, dtype, precision):
    import cupy

    engine, arrays = engines.load("cupy_grid", precision), arrays_of(gpu, engine_problem(30, 20, 700), dtype)
    right = host(run_engine(engine, arrays))
    monkeypatch.setattr(grid, "PATIENCE", 0)
    found = host(dict(zip(("h", "c_n", "c", "gates"), _forward(engine, arrays), strict=True)))
    assert np.any(np.isnan(found["h"].astype(np.float32)))
    for name, v in found.items():
        lost = np.isnan(v.astype(np.float32))
        assert same_bits(v[~lost], right[name][~lost]), name
    with pytest.raises(RuntimeError, match="given up"):
        _forward(engine, arrays)
    monkeypatch.undo()
    again = host(run_engine(engine, arrays))
    assert all(same_bits(again[name], right[name]) for name in right)
    assert float(cupy.arange(5).sum()) == 10


def _forward(engine, arrays):
    return engine.forward(arrays["a"].copy(), arrays["h0"], arrays["c0"], arrays["Wh"], keep=True)


@on_device
def test_the_device_has_room_for_what_is_planned(gpu):
    """By the driver, at the largest H of each dtype: a call raises where it has none."""
    has = device.chip(gpu.device.id)
    for dtype, precision in PRODUCTS:
        most = most_units(dtype, precision, has)
        arrays = arrays_of(gpu, engine_problem(2, 3, most), dtype)
        assert engines.load("cupy_grid", precision).forward(
            arrays["a"], arrays["h0"], arrays["c0"], arrays["Wh"], keep=False
        )[0].shape == (2, 3, most)
