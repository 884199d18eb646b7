"""Blocks of steps and of rows of `numpy_fused`: however many there are, and however short the last, the same bits."""

import pytest
from test_engines import arrays_of, engine_problem, run_engine

from lstm_xp.engines import numpy_fused
from lstm_xp.libraries import open_library

T, N, H = 7, 5, 6


def blocks(monkeypatch, size):
    """Gate values worked on at a time: those of `size` steps."""
    monkeypatch.setattr(numpy_fused, "BLOCK", int(size * 4 * N * H))


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
