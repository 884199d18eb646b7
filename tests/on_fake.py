"""What the tests of the CUDA engines share: arrays on the fake device, a fake machine, what is compared."""

import fake_cupy
import numpy as np
import pytest
from problems import same_bits
from test_engines import BACKWARD, run_engine

from lstm_xp import recording
from lstm_xp.checks import COMPUTE_DTYPE, Problem
from lstm_xp.engines import cupy_cluster, cupy_rows
from lstm_xp.engines.cuda import (
    blas,
    choice,
    chunks,
    device,
    grid,
    kernels,
    leases,
    products,
    refusals,
    stages,
    step_launches,
    whole,
)
from lstm_xp.libraries import Library
from lstm_xp.testing import limit, relative_error


class OnFake(Library):
    """NumPy's arrays, marked as those of the fake device."""

    def asarray(self, array, dtype=None):
        if dtype == "bfloat16":
            pytest.importorskip("ml_dtypes")
        return np.array(array).astype(fake_cupy.dtype_of(dtype or "float64")).view(fake_cupy.Array)


# Looks at a message: far more than it takes here, and far less than a test may take.
PATIENCE = 20_000
LIB = OnFake("fake", np, None)


def machine_of(monkeypatch, compiled=None, **options):
    """A fake machine, where CuPy would be."""
    machine = fake_cupy.Fake(compiled, **options)
    machine.install(monkeypatch)
    monkeypatch.setattr(grid, "PATIENCE", PATIENCE)
    monkeypatch.setattr(blas, "loaded", lambda: machine.cublas)
    forget()
    return machine


def problem(machine, dtype="float32", library="cupy", precision="ieee", **sizes):
    """On the machine's first device; small where no other size is given."""
    sizes = {"N": 4, "T": 5, "D": 3, "H": 2} | sizes
    return Problem(library, dtype, machine.devices[0], *sizes.values(), True, precision)


def forget():
    """What is kept of a fake CuPy is kept for no other."""
    of_devices = (
        refusals.obstacle,
        cupy_cluster._kernel,
        cupy_cluster._launches,
        device.chip,
        cupy_rows._launch,
        stages.arranging,
        products._settled,
        whole._kit,
        grid._settled,
        products._handle_of_cublas,
        grid._report,
    )
    for kept in (kernels._module, kernels.function, *of_devices):
        kept.cache_clear()
    recording._left.clear()
    for keeping in (leases, step_launches, blas, chunks, choice):
        keeping.forget()


def plain(results):
    return {name: None if v is None else np.array(np.asarray(v)) for name, v in results.items()}


def agree(results, expected, dtype, steps):
    """Values within the limits of the caller's dtype; h has that dtype, as has da of bfloat16, and all else the one
    that is computed with."""
    own = ("h", "da") if dtype == "bfloat16" else ("h",)
    for name, result in results.items():
        kind = "gradient" if name in BACKWARD else "forward"
        assert result.shape == expected[name].shape, name
        assert relative_error(result, expected[name]) <= limit(dtype, kind, steps), name
        assert result.dtype.name == (dtype if name in own else COMPUTE_DTYPE[dtype]), name


def agree_in_any_company(engine, arrays, rows):
    """Some rows, alone and among all: the same bits."""
    whole = plain(run_engine(engine, arrays))
    part = {name: v[:, rows] if v.ndim == 3 else v if name == "Wh" else v[rows] for name, v in arrays.items()}
    alone = plain(run_engine(engine, {name: v.copy() for name, v in part.items()}))
    for name in ("h", "c", "gates", "da"):
        assert same_bits(alone[name], np.ascontiguousarray(whole[name][:, rows])), name
