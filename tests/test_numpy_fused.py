"""Blocks of `numpy_fused`: however many there are, and however short the last, nothing of them is seen."""

import pytest
from problems import compare, random_problem, reference, run
from test_engines import arrays_of, engine_problem, run_engine

from lstm_xp.engines import numpy_fused
from lstm_xp.libraries import open_library

T, N, H = 7, 5, 6


def blocks(monkeypatch, size):
    """Gate values worked on at a time: those of `size` steps."""
    monkeypatch.setattr(numpy_fused, "BLOCK", int(size * 4 * N * H))
    monkeypatch.setattr(numpy_fused, "TOGETHER", 0)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("size", [0.2, 0.45, 1, 2, 3, 4, 6])
def test_blocks_cannot_be_seen(monkeypatch, size, keep, dtype):
    arrays = arrays_of(open_library("numpy"), engine_problem(T, N, H), dtype)
    blocks(monkeypatch, T)
    expected = run_engine("numpy_fused", arrays, keep)
    blocks(monkeypatch, size)
    results = run_engine("numpy_fused", arrays, keep)
    for name, result in results.items():
        if result is None:
            assert not keep
            assert name in ("c", "gates")
        else:
            assert result.tobytes() == expected[name].tobytes(), name


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize("rows", [1, 3, 20])
def test_few_rows_and_many_in_chunks(monkeypatch, rows, steps, padded, reverse):
    """Inputs are multiplied in one way or another, gradients are made of some steps at a time."""
    for name in ("LEAST", "MOST"):
        monkeypatch.setattr(numpy_fused, name, steps * rows)
    monkeypatch.setattr(numpy_fused, "BLOCK", steps * rows * 4 * 9)
    monkeypatch.setattr(numpy_fused, "TOGETHER", 0)
    values = random_problem(N=rows, T=T, D=4, H=9)
    order = {"lengths": [(3 * n) % (T + 1) for n in range(rows)] if padded else None, "reverse": reverse}
    expected = reference(values, **order)
    compare(run(values, engine="numpy_fused", **order), expected, values["x"], steps=T)
    inference = run(values, engine="numpy_fused", training=False, **order)
    compare(inference, expected, values["x"], steps=T)
