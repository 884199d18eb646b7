"""The array libraries and engines that the tests run over, found in the package's own tables.

`lib`      a `Library`: every one of lstm_xp.libraries.LIBRARIES, and NumPy with arrays that cannot be written to
`engine`   the name of an engine: with `lib`, each of that library's; alone, each of NumPy's
`library`  a function that opens one library by name, for tests that need that very one
`nvrtc`    NVIDIA's compiler for CUDA, by ctypes (nvrtc.py)
`kernels_on_cpu`  the CUDA kernels compiled as C++ for this processor (cuda_on_cpu.py), with g++

A test marked `without("jax", ...)` leaves those libraries out, where they take seconds and prove nothing new; one
marked `variants` takes only engines that have those of the cell.

Of the compiled engine (without it, whoever uses these is skipped before):

`limited`  a function that says how many threads are allowed, however many this machine or the BLAS would allow
`eager`    threads are worth it for the smallest of problems
`poisoned` what the engine allocates is full of NaN, so that nothing read too early looks right by chance

What is not installed is skipped, in the open; `--require=torch --require=numpy_numba` (a library, an engine, a
compiler) makes it a failure.
"""

import signal
from importlib.util import find_spec

import cuda_on_cpu
import numpy as np
import nvrtc as nvrtc_library
import pytest
from problems import ReadOnly, engine_names, refusal

from lstm_xp import engines
from lstm_xp.engines import cupy_rows, numpy_numba
from lstm_xp.engines.cuda import (
    choice,
    chunks,
    cluster_plan,
    grid,
    grid_plan,
    kernels,
    plan,
    pointwise,
    stages,
    step_launches,
    whole,
)
from lstm_xp.libraries import LIBRARIES, Missing, open_library

READONLY = "numpy-readonly"
REQUIRABLE = (*LIBRARIES, *engines.names(), "nvrtc", "g++")

# What was found on this user's own GPUs must not decide what is tested.
choice.own_file = lambda: None


# What a shell starts in its background ignores Ctrl-C, and so would the processes that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption(
        "--require",
        action="append",
        default=[],
        metavar="NAME",
        help=f"fail where this library, engine or compiler is missing, instead of skipping: {', '.join(REQUIRABLE)}",
    )


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "computes(dtype): with the engines that do, where the test has no parameter dtype"
    )
    config.addinivalue_line("markers", "without(*libraries): do not run with these libraries")
    config.addinivalue_line("markers", "variants: with the engines that compute variants of the cell, too")
    unknown = _required(config) - set(REQUIRABLE)
    if unknown:
        raise pytest.UsageError(f"--require: {', '.join(sorted(unknown))} is not one of {', '.join(REQUIRABLE)}")
    if find_spec("jax"):
        import jax

        jax.config.update("jax_enable_x64", True)
    if find_spec("dask"):
        import dask

        dask.config.set(scheduler="synchronous")


def pytest_generate_tests(metafunc):
    names = metafunc.fixturenames
    without = metafunc.definition.get_closest_marker("without")
    libraries = [lib for lib in (*LIBRARIES, READONLY) if not (without and lib in without.args)]
    if "lib" in names and "engine" in names:
        pairs = [(lib, engine) for lib in libraries for engine in engine_names(lib)]
        metafunc.parametrize(("lib", "engine"), pairs, indirect=True)
    elif "lib" in names:
        metafunc.parametrize("lib", libraries, indirect=True)
    elif "engine" in names:
        able = engines.candidates("numpy")
        if metafunc.definition.get_closest_marker("variants"):
            able = [name for name in able if hasattr(engines.load(name), "lacks")]
        metafunc.parametrize("engine", able, indirect=True)


@pytest.fixture
def lib(request):
    if request.param == READONLY:
        return ReadOnly(*_open(request.config, "numpy"))
    return _open(request.config, request.param)


@pytest.fixture
def engine(request):
    lib = request.getfixturevalue("lib") if "lib" in request.fixturenames else open_library("numpy")
    marker = request.node.get_closest_marker("computes")
    dtype = marker.args[0] if marker else request.node.callspec.params.get("dtype", "float64")
    reason = refusal(request.param, lib, dtype)
    if reason:
        missing = refusal(request.param, lib, "float32")  # what every engine computes
        if missing and request.param in _required(request.config):
            pytest.fail(f"--require={request.param}: {missing}")
        pytest.skip(f"{request.param}: {reason}")
    return request.param


@pytest.fixture
def library(request):
    return lambda name: _open(request.config, name)


@pytest.fixture
def limited(monkeypatch):
    from lstm_xp.engines.compiled import threads

    monkeypatch.setattr(threads, "_blas", tuple)

    def allow(count):
        monkeypatch.setattr(threads.config, "NUMBA_NUM_THREADS", count)
        assert threads.limit() == count

    return allow


@pytest.fixture
def eager(monkeypatch):
    monkeypatch.setattr(numpy_numba, "WORTH_A_THREAD", 1.0)
    monkeypatch.setattr(numpy_numba, "WORTH_A_MEETING", (1.0, 1.0))


@pytest.fixture
def poisoned(monkeypatch):
    """Bytes of 255 are NaN in either dtype, too, to whoever views them as such."""

    def nothing_but_nan(shape, dtype):
        return np.full(shape, 255 if dtype is np.uint8 else np.nan, dtype)

    class Poison:
        def __getattr__(self, name):
            return getattr(np, name)

        @staticmethod
        def empty(shape, dtype):
            return nothing_but_nan(shape, dtype)

        @staticmethod
        def empty_like(v):
            return nothing_but_nan(v.shape, v.dtype)

    monkeypatch.setattr(numpy_numba, "np", Poison())
    monkeypatch.setattr(numpy_numba, "KEPT", -1)
    for dtype in numpy_numba.DTYPES:
        numpy_numba._code(np.dtype(dtype)).spare.clear()


@pytest.fixture(scope="session")
def nvrtc(request):
    library = nvrtc_library.load()
    return library or _absent(request.config, "nvrtc", "the wheel nvidia-cuda-nvrtc is not installed")


@pytest.fixture(scope="session")
def kernels_on_cpu(request, tmp_path_factory):
    if cuda_on_cpu.COMPILER is None:
        _absent(request.config, "g++", "g++ is not installed")
    parts = {
        "steps": ((*pointwise.FILES, *step_launches.FILES), (*pointwise.EXPRESSIONS, *plan.expressions())),
        "stages": ((*stages.FILES, *whole.FILES), (*stages.EXPRESSIONS, *whole.EXPRESSIONS)),
        "chunks": (chunks.FILES, ("fill_chunk", *chunks.EXPRESSIONS)),
        "clusters": (cluster_plan.FILES, cluster_plan.expressions()),
        "grids": (grid.FILES, grid_plan.expressions()),
        "rows": (cupy_rows.FILES, cupy_rows.every_expression()),
    }
    quickly = {"clusters": ("-O1", 2)}  # they are many, and each runs for a short time
    compiled = (
        cuda_on_cpu.Kernels(kernels.source(*files), names, tmp_path_factory.mktemp(part), *quickly.get(part, ()))
        for part, (files, names) in parts.items()
    )
    return cuda_on_cpu.Several(*compiled)


def _absent(config, name, reason):
    if name in _required(config):
        pytest.fail(f"--require={name}: {reason}")
    pytest.skip(reason)


def _required(config):
    return {name for given in config.getoption("--require") for name in given.split(",")}


def _open(config, name):
    try:
        return open_library(name)
    except Missing as missing:
        _absent(config, name, str(missing))
