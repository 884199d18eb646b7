"""The engine cupy_fused, its plan carried out on this processor: by NumPy, and with its CUDA source compiled as C++.

What is emulated, and how strictly, is in fake_cupy.py; cuBLAS's and the GPU's own arithmetic is not.
"""

import gc
import threading
from types import SimpleNamespace

import cuda_on_cpu
import fake_cupy
import numpy as np
import pytest
from problems import compare, orders, random_problem, reference, rounded, run, same_bits
from test_engines import BACKWARD, SIZES, arrays_of, engine_problem, rounded_as, run_engine

from lstm_xp import checks, engines, explain, lstm_forward
from lstm_xp.checks import Problem
from lstm_xp.engines import cupy_fused
from lstm_xp.engines.cuda import kernels
from lstm_xp.libraries import Library
from lstm_xp.testing import assert_close

DTYPES = ("float64", "float32", "float16", "bfloat16")
dtypes = pytest.mark.parametrize("dtype", DTYPES)
IEEE, PEDANTIC, DOUBLE, TF32 = 68, 69, 70, 77


class OnFake(Library):
    """NumPy's arrays, marked as those of the fake device."""

    def asarray(self, array, dtype=None):
        pytest.importorskip("ml_dtypes") if dtype == "bfloat16" else None
        return np.asarray(array).astype(fake_cupy.dtype_of(dtype or "float64")).view(fake_cupy.Array)


LIB = OnFake("fake", np, None)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory, pytestconfig):
    return lambda: _compiled(tmp_path_factory)


_KERNELS = []


def _compiled(tmp_path_factory):
    if not _KERNELS:
        source = kernels.SOURCE.read_text(encoding="utf-8")
        folder = tmp_path_factory.mktemp("kernels")
        _KERNELS.append(cuda_on_cpu.Kernels(source, kernels.name_expressions(), folder))
    return _KERNELS[0]
