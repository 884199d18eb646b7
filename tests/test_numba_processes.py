"""The compiled engine in processes of their own: forked, beside guarded memory, compiled anew for other processors."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lstm_xp
from lstm_xp.engines import numpy_numba

pytest.importorskip("numba")
if numpy_numba.obstacle():
    pytest.skip(numpy_numba.obstacle(), allow_module_level=True)

from lstm_xp.engines.compiled import code

PACKAGE = Path(lstm_xp.__file__).parent
TESTS = Path(__file__).parent
posix = pytest.mark.skipif(os.name != "posix", reason="fork and mprotect are POSIX")


@pytest.fixture(scope="module", autouse=True)
def compiled_before():
    """So that no process but those that are to compile does."""
    lstm_xp.warmup()


def in_a_process(script, *arguments, path=PACKAGE.parent, **environment):
    """A new interpreter that runs a script: the process, not waited for."""
    variables = os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{TESTS}"} | environment
    command = [sys.executable, "-X", "faulthandler", "-c", script, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=variables, cwd=path, **pipes)


def outcome(process):
    """What it printed, by line, and what it wrote to stderr."""
    printed, errors = process.communicate(timeout=600)
    lines = printed.splitlines()
    assert process.returncode == 0, f"status {process.returncode} after {lines[-1:]}: {errors}"
    return lines, errors


# --- Threads that start, and processes that fork

# More rows than units, and the other way round; the BLAS is told the same as numba, whose least counts.
PROCESSES = """
import multiprocessing, os, signal, sys, threading
from concurrent.futures import ProcessPoolExecutor
from problems import ARGUMENTS, host, random_problem, run, same_bits
import lstm_xp
import numpy as np
from lstm_xp.engines.compiled import threads

from lstm_xp.engines import numpy_numba
from lstm_xp.engines.compiled.steps import AWAKE, STREAM

helper_of = numpy_numba._code(np.dtype("float32")).desk
PROBLEMS = [random_problem(5, 4, 7, 320), random_problem(40, 50, 7, 33)]

def two_directions():
    network, x = lstm_xp.LSTM(64, 128, bidirectional=True), np.ones((8, 100, 64), np.float32)
    y, _, cache = network.forward(network.init(seed=1), x)
    return {"y": y, "dx": network.backward(y, cache).dx}

def stream():
    network, x = lstm_xp.LSTM(128, 256), np.ones((1, 128), np.float32)
    params, state = network.init(seed=1), lstm_xp.State(*(np.zeros((1, 1, 256), np.float32) for _ in range(2)))
    for _ in range(100):
        y, state = network.step(params, x, state)
    return {"y": y}

def results():
    return [*(host(run(values, engine="numpy_numba")) for values in PROBLEMS), two_directions(), stream()]

def same(some, others):
    return all(same_bits(one[name], other[name]) for one, other in zip(some, others, strict=True) for name in one)

def count():
    return sum(thread.name == "lstm_xp" for thread in threading.enumerate())

def forked(what, expected):
    helper_of[AWAKE] = helper_of[STREAM] = 1  # as if it were just at work
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # ends a child that waits for ever
        try:
            free = helper_of[AWAKE] == helper_of[STREAM] == 0
            os._exit(0 if free and count() == 0 and same(results(), expected) and count() == int(sys.argv[1]) else 1)
        except BaseException:
            os._exit(2)
    print(what, os.waitpid(child, 0)[1], flush=True)
    helper_of[AWAKE] = helper_of[STREAM] = 0

expected = results()
print("threads", count(), flush=True)
if hasattr(os, "fork"):
    forked("forked", expected)
    with threads.pool.free:
        forked("forked while the pool was in use", expected)
    print("the parent", 0 if same(results(), expected) else 1, flush=True)
if sys.argv[1] == "1":
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as others:
        values = PROBLEMS[0]
        h, cache = others.submit(lstm_xp.lstm_forward, *(values[name] for name in ARGUMENTS[:5]),
                                 c0=values["c0"], engine="numpy_numba").result(60)
    print("spawned", 0 if same_bits(h, expected[0]["h"]) else 1)
"""


@pytest.mark.parametrize(("numba", "blas", "started"), [("2", "3", 1), ("3", "1", 0)])
def test_limits_of_the_environment_and_children(numba, blas, started):
    """numba allows no more threads than it finds processors, unless it is told so."""
    limits = {"NUMBA_NUM_THREADS": numba} | dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), blas)
    lines, _ = outcome(in_a_process(PROCESSES, str(started), OMP_NUM_THREADS=blas, **limits))
    assert lines[0] == f"threads {started}"
    assert [line.split()[-1] for line in lines[1:]] == ["0"] * (len(lines) - 1), lines
    assert len(lines) == 1 + 3 * hasattr(os, "fork") + started


# --- One processor for two threads, as where other programs have the others

SHARED = """
import os, resource
import numpy as np
import problems
from lstm_xp.engines import numpy_numba
from lstm_xp.engines.compiled import threads
from lstm_xp.engines.compiled.meeting import ARRIVED

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
threads.limit = lambda: 2
values = problems.random_problem(1, 3000, 3, 128)
arrays = {name: value.astype("float32") for name, value in values.items()}
x, h0, c0, Wx, Wh, b = (arrays[name] for name in ("x", "h0", "c0", "Wx", "Wh", "b"))
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
    h = np.empty((x.shape[1], *h0.shape), x.dtype)
    numpy_numba.layer(x.swapaxes(0, 1), h0, c0, Wx, Wh, b, None, h, keep=False)
print(threads.pool.meeting[ARRIVED], resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before)
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processors are chosen so on Linux")
def test_threads_on_one_processor_give_way_to_each_other():
    """A thread that only looked would have to fall asleep at nearly every meeting before the other one got to work."""
    (line,), _ = outcome(in_a_process(SHARED))
    meetings, sleeps = map(int, line.split())
    assert meetings == 2 * 3000
    assert sleeps < 3000 / 10


# --- Too little memory for a step

TOO_LITTLE = """
import resource
import numpy as np
from lstm_xp.engines import numpy_numba

N, H = 3_000_000, 16
code, ones = numpy_numba._code(np.dtype("float32")), lambda *shape: np.ones(shape, "float32")
x, h, Wx, Wh, b = np.broadcast_to(ones(1, 1), (N, 1)), ones(1, N, H), ones(1, 4 * H), ones(H, 4 * H), ones(4 * H)
arguments = x, h, h, Wx, Wh, b, ones(1, N, H), ones(1, N, H)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20), resource.RLIM_INFINITY))
for call in (lambda: code.stream(code.desk, 2**62, True, *arguments, 0),
             lambda: code.team().pool.run(lambda *share: code.step(*arguments, *share), 1)):
    try:
        call()
    except MemoryError:
        print(np.all(np.full(64, np.finfo("float32").tiny) * np.float32(0.25) > 0))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are those of Linux")
def test_too_little_memory_leaves_the_processor_as_it_was():
    """Denormal numbers are computed again, which kernels have zeros for."""
    lines, _ = outcome(in_a_process(TOO_LITTLE))
    assert lines == ["True", "True"]


# --- Memory that is not its own

# Each array ends, or begins, where the system lets nobody read or write; what the engine allocates, too.
GUARD = """
import ctypes, mmap, sys, types
import numpy as np
import problems, variant_problems
from lstm_xp import freeze
from lstm_xp.engines import numpy_numba
from lstm_xp.engines.compiled import threads

libc, page, maps = ctypes.CDLL(None), mmap.PAGESIZE, []

def guarded(shape, dtype=float, at_end=True):
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    room = -(-max(size, 1) // page) * page
    maps.append(mmap.mmap(-1, room + 2 * page))
    start = ctypes.addressof(ctypes.c_char.from_buffer(maps[-1]))
    for place in (start, start + page + room):
        assert libc.mprotect(ctypes.c_void_p(place), ctypes.c_size_t(page), 0) == 0
    offset = page + (room - size if at_end else 0)
    return np.frombuffer(maps[-1], dtype, size // np.dtype(dtype).itemsize, offset).reshape(shape)

def copy(v, at_end):
    out = guarded(v.shape, v.dtype, at_end)
    out[...] = v
    return out

def closed(memory):
    # Given back to the system, which has a limit of how many there may be, if nothing is there any more.
    try:
        memory.close()
    except BufferError:
        return False
    return True

threads.limit = lambda: 3
numpy_numba.WORTH_A_THREAD, numpy_numba.WORTH_A_MEETING = 1.0, (1.0, 1.0)
if sys.argv[1] == "sequence of large weights":
    numpy_numba.LARGE, numpy_numba.BYTES_A_ROW = 0, 1
for at_end in (True, False):
    proxy = types.SimpleNamespace(**vars(np))
    proxy.empty = lambda shape, dtype: guarded(shape, dtype, at_end)
    proxy.ascontiguousarray = lambda v, *dtype: copy(np.ascontiguousarray(v, *dtype), at_end)
    proxy.array = lambda v, dtype=None, order="C": copy(np.array(v, dtype, order=order), at_end)
    numpy_numba.np = proxy
    for dtype in numpy_numba.DTYPES:
        for N, T, D, H in eval(sys.argv[2]):
            print(dtype, N, T, D, H, "at the end" if at_end else "at the beginning", flush=True)
            if sys.argv[1] == "variants":
                for variant in variant_problems.MANY.values():
                    for P in (1, H):
                        values = variant_problems.random_problem(variant, N, T, D, H, P)
                        arrays = {name: copy(v.astype(dtype), at_end) for name, v in values.items()}
                        for order in variant_problems.orders_of(N, T):
                            results = variant_problems.numba_run(variant, arrays, **order)
                    del results, arrays
                    maps = [used for used in maps if not closed(used)]
                continue
            values = problems.random_problem(N, T, D, H)
            arrays = {name: copy(v.astype(dtype), at_end) for name, v in values.items()}
            if sys.argv[1] != "step":
                results = problems.run(arrays, engine="numpy_numba")
                results = problems.run(arrays | {name: freeze(arrays[name]) for name in ("Wx", "Wh")},
                                       engine="numpy_numba")
                for training in (True, False):
                    lengths = np.arange(N) * 2 % (T + 1)
                    results = problems.forward(arrays, engine="numpy_numba", lengths=lengths, training=training)
                x, h0, c0, Wx, Wh, b = (arrays[name] for name in ("x", "h0", "c0", "Wx", "Wh", "b"))
                x, h = copy(x.swapaxes(0, 1), at_end), guarded((T, N, 2 * H), dtype, at_end)
                h = h[..., H:] if at_end else h[..., :H]  # beside what another direction writes
                c_n, c, gates = numpy_numba.layer(x, h0, c0, Wx, Wh, b, None, h, keep=True)
                results = numpy_numba.gradients(h, h0, None, gates, c, x, h0, c0, h, Wx, Wh, need_dx=True)
            else:
                x = copy(arrays["x"][:, 0], at_end)
                results = numpy_numba.step(x, *(arrays[name] for name in ("h0", "c0", "Wx", "Wh", "b")))
            del results
print("done")
"""


@posix
@pytest.mark.parametrize(
    ("what", "sizes"),
    [
        ("sequence", [(1, 2, 1, 1), (1, 3, 2, 37), (1, 2, 5, 192)]),
        ("sequence", [(3, 2, 5, 7), (7, 3, 17, 33), (2, 2, 3, 64), (5, 2, 65, 192), (13, 2, 1, 68)]),
        ("sequence of large weights", [(13, 2, 1, 68), (23, 3, 5, 130)]),
        ("variants", [(1, 2, 1, 1), (2, 3, 2, 37), (3, 2, 5, 64)]),
        ("variants", [(9, 3, 2, 17), (23, 2, 1, 5)]),
        ("step", [(1, 1, 1, 1), (2, 1, 3, 5), (3, 1, 5, 64), (4, 1, 7, 33), (7, 1, 33, 320), (2, 1, 3, 24)]),
        ("step", [(3, 1, 17, 260), (3, 1, 17, 132), (3, 1, 17, 68), (3, 1, 17, 34)]),
        ("step", [(1, 1, 101, 300), (2, 1, 1, 252), (2, 1, 515, 260), (1, 1, 9, 256)]),
    ],
)
def test_nothing_beyond_an_array_is_touched(what, sizes):
    lines, _ = outcome(in_a_process(GUARD, what, repr(sizes)))
    assert lines[-1] == "done"


# --- Compiled anew, for narrower registers, with a folder for the cache and without

COMPARE = """
import sys, time
import variant_problems
from problems import compare, random_problem, rounded, run, same_bits
from lstm_xp import engines
from lstm_xp.engines import numpy_numba
from lstm_xp.engines.compiled import kernels, vectors
from lstm_xp.testing import assert_close

dtype, before = sys.argv[1], time.monotonic()
code = numpy_numba._code(numpy_numba.np.dtype(dtype))
numpy_numba.warmup(dtype)
print(time.monotonic() - before)
print(vectors.BYTES, numpy_numba.__file__)
for N, T, D, H in ((5, 7, 19, 33), (1, 4, 7, 45), (2, 5, 17, 192), (23, 3, 70, 68)):
    values = random_problem(N, T, D, H)
    expected = run(rounded(values, dtype), engine="array_api")
    arrays = {name: value.astype(dtype) for name, value in values.items()}
    code.threads = lambda: 1
    one = run(arrays, engine="numpy_numba")
    compare(one, expected, arrays["x"], T)
    code.threads, numpy_numba.WORTH_A_THREAD, numpy_numba.WORTH_A_MEETING = lambda: 2, 1.0, (1.0, 1.0)
    two = run(arrays, engine="numpy_numba")
    assert all(same_bits(one[name], two[name]) for name in one), (N, T, D, H)
for N, D, H in ((1, 101, 300), (2, 7, 64), (3, 40, 64)):
    values = random_problem(N, 1, D, H)
    arguments = [values["x"][:, 0], *(values[name] for name in ("h0", "c0", "Wx", "Wh", "b"))]
    arguments = [value.astype(dtype) for value in arguments]
    wide = engines.load("array_api").step(*(value.astype(float) for value in arguments))
    for result, expected in zip(numpy_numba.step(*arguments), wide, strict=True):
        assert_close(result, expected, like=arguments[0])
for name in ("all", "all, coupled", "all but layer norm"):
    for N, T, D, H, P in ((5, 2, 4, 33, 7), (1, 2, 3, 17, 17)):
        variant = variant_problems.MANY[name]
        values = rounded(variant_problems.random_problem(variant, N, T, D, H, P, seed=1), dtype)
        expected = variant_problems.run(variant, values, engine="array_api")
        arrays, results = variant_problems.typed(values, dtype), []
        for count in (1, 2):
            code.threads = lambda count=count: count
            results.append(variant_problems.numba_run(variant, arrays))
        variant_problems.compare(results[0], expected, arrays["x"], T)
        variant_problems.assert_same(*results)
hits = [sum(code.__dict__[function.__name__].stats.cache_hits.values()) for function in kernels.signatures(code.dtype)]
print(*hits)
time.sleep(max(0, before + 1.5 - time.monotonic()))  # a notice that nobody called off comes after a second
"""
# Bytes of a register, a dtype, and what tells numba.
PROCESSORS = {
    "SSE": (16, "float64", "nehalem", "+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt"),
    "AVX2": (32, "float32", "haswell", "+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma"),
}
on_x86 = pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="for processors of x86-64")


def start(processor, **options):
    _, dtype, name, features = PROCESSORS[processor]
    return in_a_process(COMPARE, dtype, NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES=features, **options)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """SSE with a folder for the cache, twice; AVX2 without any, from a copy whose __pycache__ is a file."""
    from llvmlite import binding

    folder = tmp_path_factory.mktemp("numba")
    file = folder / "file"
    file.touch()
    shutil.copytree(PACKAGE, folder / "lstm_xp", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "lstm_xp" / "engines" / "compiled" / "__pycache__").touch()
    nowhere = dict.fromkeys(("NUMBA_CACHE_DIR", "HOME", "XDG_CACHE_HOME", "LOCALAPPDATA", "IPYTHONDIR"), f"{file}/no")
    cache = {"NUMBA_CACHE_DIR": str(folder / "cache")}
    processes = {"SSE": start("SSE", **cache)}
    if binding.get_host_cpu_features().get("avx2"):
        processes["AVX2"] = start("AVX2", path=folder, **nowhere)
    try:
        results = {name: outcome(process) for name, process in processes.items()}
        # Where other work slows this down, loading takes more than the second after which the notice appears.
        for _ in range(5):
            lines, _ = results["SSE, again"] = outcome(start("SSE", **cache))
            if float(lines[0]) < 0.9:
                break
        return results | {"AVX2 from": folder}
    finally:
        for process in processes.values():
            process.kill()


@on_x86
@pytest.mark.parametrize("processor", PROCESSORS)
def test_narrower_registers(compiled, processor):
    """Within the table, and the same bits for one thread and two (which the script asserts), after one notice."""
    if processor not in compiled:
        pytest.skip(f"this machine has no {processor}")
    size, dtype, *_ = PROCESSORS[processor]
    (_, registers, hits), errors = compiled[processor]
    assert registers.split()[0] == str(size)
    assert registers.split()[1].startswith(str(compiled["AVX2 from"] if processor == "AVX2" else PACKAGE))
    assert set(hits.split()) == {"0"}  # no kernel came from a cache
    assert errors == code.NOTICE.format(dtype=dtype) + "\n"


@on_x86
def test_what_was_compiled_before_is_loaded_in_silence(compiled):
    (seconds, _, hits), errors = compiled["SSE, again"]
    assert set(hits.split()) == {"1"}
    assert float(seconds) < 0.9
    assert errors == ""
