"""lstm-xp check and lstm-xp info: what they print, and that check fails when an engine is wrong."""

import pytest

from lstm_xp import engines
from lstm_xp.cli import main
from lstm_xp.engines import array_api, numpy_fused, numpy_numba

# Each engine of NumPy and dtype that is checked: not what an engine does not compute, nor without numba its engine.
COMBINATIONS = [
    ["numpy", "cpu", engine, dtype]
    for engine in engines.candidates("numpy")
    for dtype in ("float64", "float32", "float16")
    if engine != "numpy_numba" or (dtype in numpy_numba.DTYPES and not numpy_numba.obstacle())
]


def test_check_passes_every_engine_and_dtype_of_numpy(capsys):
    assert main(["check", "--library", "numpy"]) == 0
    printed = capsys.readouterr().out
    lines = [line.split()[:4] for line in printed.splitlines() if line.startswith("numpy")]
    assert sorted(lines) == sorted(COMBINATIONS)
    assert f"{len(COMBINATIONS)} combinations checked, 0 failed" in printed


def test_check_names_what_is_missing(capsys):
    status = main(["check", "--library", "cupy"])
    out, err = capsys.readouterr()
    if status == 2:
        assert "not checked: cupy, " in out
        assert err == "lstm-xp check: nothing found to check (cupy)\n"
    else:
        assert status == 0
        assert "cupy" in out


@pytest.mark.parametrize("wrong", ["dc0", "da", "h"])
def test_check_fails_a_wrong_engine(wrong, monkeypatch, capsys):
    forward, backward = numpy_fused.forward, numpy_fused.backward

    def wrong_forward(*arguments, **options):
        h, *rest = forward(*arguments, **options)
        h[-1, 0, 0] *= 1 + 1e-5 * (wrong == "h")
        return h, *rest

    def wrong_backward(*arguments):
        da, dh0, dc0 = backward(*arguments)
        da[-1] *= 1 - 1e-5 * (wrong == "da")
        return da, dh0, dc0 * (1 + 1e-5 * (wrong == "dc0"))

    for own in ("layer", "gradients"):  # which would run in their place
        monkeypatch.delattr(numpy_fused, own)
    monkeypatch.setattr(numpy_fused, "forward", wrong_forward)
    monkeypatch.setattr(numpy_fused, "backward", wrong_backward)
    assert main(["check", "--library", "numpy"]) == 1
    out, err = capsys.readouterr()
    assert err.count("FAILED: numpy, numpy_fused, ") == 2  # float64 and float32; float16 cannot tell
    assert "array_api" not in err
    assert f"{len(COMBINATIONS)} combinations checked, 2 failed" in out


@pytest.mark.parametrize("wrong", ["h", "dz"])
def test_check_fails_an_engine_whose_variants_are_wrong(wrong, monkeypatch, capsys):
    forward, backward = array_api.cells, array_api.cells_gradients

    def wrong_forward(*arguments, **options):
        h, *rest = forward(*arguments, **options)
        h[-1, 0, 0] *= 1 + 1e-5 * (wrong == "h")
        return h, *rest

    def wrong_backward(*arguments):
        dh0, dc0, between = backward(*arguments)
        between.dz[-1] *= 1 - 1e-5 * (wrong == "dz")
        return dh0, dc0, between

    monkeypatch.setattr(array_api, "cells", wrong_forward)
    monkeypatch.setattr(array_api, "cells_gradients", wrong_backward)
    assert main(["check", "--library", "numpy"]) == 1
    _, err = capsys.readouterr()
    assert "FAILED: numpy, array_api, float64: " in err
    assert "numpy_fused" not in err


def test_check_reports_an_engine_that_raises_and_goes_on(monkeypatch, capsys):
    def broken(*arguments, **options):
        raise MemoryError("no room")

    monkeypatch.delattr(numpy_fused, "layer")  # which would run in its place
    monkeypatch.setattr(numpy_fused, "forward", broken)
    assert main(["check", "--library", "numpy"]) == 1
    out, err = capsys.readouterr()
    assert "FAILED: numpy, numpy_fused, float64: MemoryError: no room" in err
    assert f"{len(COMBINATIONS)} combinations checked, 3 failed" in out


def test_info_leaves_out_engines_that_cannot_be_used(monkeypatch, capsys):
    monkeypatch.setattr(numpy_numba, "obstacle", lambda: "numba is not installed")
    assert main(["info"]) == 0
    told = f"engines: numpy_fused, array_api\n{'':20}not numpy_numba: numba is not installed\n"
    assert told in capsys.readouterr().out
    monkeypatch.setattr(numpy_numba, "obstacle", lambda: "")
    assert main(["info"]) == 0
    assert "engines: numpy_numba, numpy_fused, array_api\n" in capsys.readouterr().out


def test_info_leaves_out_what_is_not_known_of_a_thread_pool(monkeypatch, capsys):
    threadpoolctl = pytest.importorskip("threadpoolctl")
    pools = [
        {
            "internal_api": "openblas",
            "version": "0.3.29",
            "architecture": "Zen",
            "num_threads": 2,
            "prefix": "libopenblas",
        },
        {"internal_api": "openmp", "version": None, "num_threads": 1, "prefix": "libgomp"},
    ]
    monkeypatch.setattr(threadpoolctl, "threadpool_info", lambda: pools)
    assert main(["info"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "  openblas 0.3.29, kernel Zen, 2 threads (libopenblas)",
        "  openmp, 1 thread (libgomp)",
    ]


def test_info_names_libraries_engines_and_blas(capsys):
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    for expected in ("lstm_xp ", "Python ", "numpy_fused, array_api", "BLAS", "kernel"):
        assert expected in printed
