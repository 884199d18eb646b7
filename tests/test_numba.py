"""The compiled engine of NumPy, beyond the contract that `test_engines.py` holds every engine to.

Here: arrays of any layout, the products of its gradients, its functions of one number, its step. What concerns threads
is in `test_numba_threads.py`, what takes another process in `test_numba_processes.py`.
"""

import sys
import types
from decimal import Decimal, localcontext
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from problems import ARGUMENTS, forward, given, host, random_problem, rounded, run, same_bits

import lstm_xp
from lstm_xp import EngineError, engines
from lstm_xp.engines import numpy_fused, numpy_numba
from lstm_xp.testing import assert_close

pytest.importorskip("numba")
if numpy_numba.obstacle():
    pytest.skip(numpy_numba.obstacle(), allow_module_level=True)

from lstm_xp.engines.compiled.forward import ROOM

NAME = numpy_numba.name
dtypes = pytest.mark.parametrize("dtype", numpy_numba.DTYPES)


def numba_run(values, **options):
    return run(values, engine=NAME, **options)


# --- Arrays of any layout


def unaligned(v):
    """The same values, one byte beside where the processor wants them."""
    raw = np.empty(v.nbytes + 1, np.uint8)[1:].view(v.dtype).reshape(v.shape)
    raw[...] = v
    assert not raw.flags.aligned
    return raw


def readonly(v):
    v = v.copy()
    v.flags.writeable = False
    return v


def embedded(v):
    """Inside a larger array, all of whose other elements are NaN."""
    outer = np.full([2 * size + 3 for size in v.shape], np.nan, v.dtype)
    inner = outer[tuple(slice(1, 1 + 2 * size, 2) for size in v.shape)]
    inner[...] = v
    return inner


LAYOUTS = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "read-only": readonly,
    "unaligned": unaligned,
    "embedded": embedded,
    "backwards": lambda v: np.ascontiguousarray(v[::-1])[::-1],
}
layouts = pytest.mark.parametrize("layout", LAYOUTS)


@layouts
@dtypes
def test_a_layout_changes_no_bit(library, dtype, layout):
    """Every argument and cotangent in that layout, through the public functions; all stay what they were."""
    values = given(library("numpy"), random_problem(5, 7, 19, 33), dtype)
    expected = host(numba_run(values))
    arrays = {name: LAYOUTS[layout](value) for name, value in values.items()}
    before = {name: array.tobytes() for name, array in arrays.items()}
    results = numba_run(arrays)
    for name, result in results.items():
        assert same_bits(result.astype(dtype), expected[name]), name
    assert all(array.tobytes() == before[name] for name, array in arrays.items())


@pytest.mark.parametrize("argument", ARGUMENTS)
@pytest.mark.parametrize("layout", ["Fortran", "unaligned", "embedded", "backwards"])
def test_one_argument_of_another_layout_changes_no_bit(argument, layout):
    values = random_problem(5, 7, 19, 33)
    expected = numba_run(values)
    for name, result in numba_run(values | {argument: LAYOUTS[layout](values[argument])}).items():
        assert same_bits(result, expected[name]), name


# --- The products of the gradients: whole numbers are multiplied and added exactly, in whatever order

# Steps and rows: 512 of them, about, are taken at a time, 512 of a row of many; a tile has six or eight rows.
ROWS = [(1, 1), (5, 1), (1, 7), (3, 241), (513, 1), (30, 35), (2, 600)]
# Of each width of a panel: less, one, more; 240 are taken at a time. 4 H = 516 is more than are added up at once.
SIZES = [
    (1, 1),
    (7, 5),
    (8, 16),
    (15, 4),
    (16, 3),
    (17, 33),
    (31, 129),
    (33, 12),
    (65, 2),
    (97, 31),
    (201, 9),
    (250, 7),
]


def whole(rng, low, high, *shape):
    return rng.integers(low, high + 1, shape).astype(float)


def whole_problem(T, N, D, H):
    """What `gradients` takes, such that every da is a whole number: of no forward pass, but that does not matter."""
    rng = np.random.default_rng(T * N * D)
    i, o, g = (whole(rng, -1, 2, T, N, H) for _ in range(3))
    f = -(whole(rng, 0, 3, T, N, H) == 0).astype(float)
    c, c0 = (20 * whole(rng, -1, 1, *shape, H) for shape in ((T, N), (N,)))  # tanh of which is 1, 0, -1
    dh, x, h0, h = (whole(rng, -1, 1, *shape) for shape in ((T, N, H), (T, N, D), (N, H), (T, N, H)))
    dh_n, dc_n = (whole(rng, -1, 1, N, H) for _ in range(2))
    Wx, Wh = whole(rng, -1, 1, D, 4 * H), np.zeros((H, 4 * H))
    return dh, dh_n, dc_n, np.concatenate([i, f, o, g], axis=-1), c, x, h0, c0, h, Wx, Wh


def whole_gradients(dh, dh_n, dc_n, gates, c, x, h0, c0, h, Wx, Wh):
    """What comes of it: dx, dh0, dWx, dWh, db, dc0."""
    da, dh0, dc0 = engines.load("array_api").backward(dh, dh_n, dc_n, gates, c, c0, Wh)
    prev_h = np.concatenate([h0[None], h[:-1]])
    return da @ Wx.T, dh0, *(np.einsum("tnk,tnj->kj", v, da) for v in (x, prev_h)), da.sum((0, 1)), dc0


@pytest.mark.parametrize("rows", ROWS, ids=str)
@dtypes
def test_gradients_of_whole_numbers_are_exact(dtype, rows):
    for sizes in SIZES:
        problem = whole_problem(*rows, *sizes)
        expected = [v.astype(dtype) for v in whole_gradients(*problem)]
        arrays = [v.astype(dtype) for v in problem]
        for need_dx in (True, False):
            results = numpy_numba.gradients(*arrays, need_dx=need_dx)
            assert need_dx or results[0] is None
            for result, value in zip(results[1 - need_dx :], expected[1 - need_dx :], strict=True):
                assert np.array_equal(result, value), sizes
        da, *_ = numpy_numba.backward(*arrays[:5], arrays[7], arrays[10])
        assert np.array_equal(da, engines.load("array_api").backward(*problem[:5], problem[7], problem[10])[0])


@dtypes
def test_repeated_rows_and_columns_change_no_bit(dtype):
    """Strides of zero, as broadcasting makes them."""
    values = {name: value.astype(dtype) for name, value in random_problem(5, 7, 19, 33).items()}
    repeated = values | {
        "x": np.broadcast_to(values["x"][:, :1], values["x"].shape),
        "Wx": np.broadcast_to(values["Wx"][:1], values["Wx"].shape),
        "Wh": np.broadcast_to(values["Wh"][:, :1], values["Wh"].shape),
        "dh": np.broadcast_to(values["dh"][0, 0, 0], values["dh"].shape),
    }
    expected = numba_run({name: value.copy() for name, value in repeated.items()})
    for name, result in numba_run(repeated).items():
        assert same_bits(result, expected[name]), name


@dtypes
def test_preactivations_of_more_steps_than_are_taken_at_a_time(dtype):
    T, N, H = ROOM // 512, 3, 64
    rng = np.random.default_rng(0)
    shapes = {"a": (T, N, 4 * H), "h0": (N, H), "c0": (N, H), "Wh": (H, 4 * H)}
    a, h0, c0, Wh = (rng.standard_normal(shape).astype(dtype) / 8 for shape in shapes.values())
    found = numpy_numba.forward(a.copy(), h0, c0, Wh, keep=True)
    expected = engines.load("array_api").forward(a.copy(), h0, c0, Wh, keep=True)
    for name, result, wanted in zip(("h", "c_n", "c", "gates"), found, expected, strict=True):
        assert_close(result, wanted, steps=T, name=name)


# --- The logistic function and tanh


def through_forward(z, H, dtype):
    """The logistic function and tanh of these numbers, computed as gates of H units, in every column of them."""
    z = np.asarray(z, dtype)
    N = -(-len(z) // H)
    block = np.resize(z, (N, H))
    zeros = np.zeros((N, H), dtype)
    a = np.concatenate([block] * 4, axis=1)[None]
    _, _, _, gates = numpy_numba.forward(a, zeros, zeros, np.zeros((H, 4 * H), dtype), keep=True)
    i, f, o, g = (part.ravel()[: len(z)] for part in np.split(gates[0], 4, axis=1))
    assert same_bits(i, f)
    assert same_bits(i, o)
    return i, g


def exact(z):
    """The logistic function and tanh of float64 numbers, correct to rounding."""
    with localcontext(prec=60):
        logistic = [float(1 / (1 + (-v).exp())) for v in map(Decimal, z.tolist())]
        # Far below, z is closer to tanh(z) than any other float64.
        powers = [(2 * v).exp() if abs(v) > 1e-20 else None for v in map(Decimal, z.tolist())]
        tanh = [v if p is None else float((p - 1) / (p + 1)) for v, p in zip(z.tolist(), powers, strict=True)]
    return np.array(logistic), np.array(tanh)


@pytest.mark.parametrize("H", [1, 3, 5, 17, 31, 33])
@dtypes
def test_gates_are_exact_to_rounding(dtype, H):
    """The logistic function beside 1; tanh beside itself, however small it is, but for denormal numbers: 0 will do."""
    rng = np.random.default_rng(H)
    tiny, small = np.finfo(dtype).tiny, np.finfo(dtype).smallest_subnormal
    sizes = 10.0 ** rng.uniform(np.log10(tiny), 0, 300)
    halves = (
        np.arange(1, 60) * np.log(2) / 4
    )  # where the argument of the exponential passes from one series to the next
    edges = np.concatenate([halves, np.nextafter(halves, 0), np.nextafter(halves, 99), [small, tiny, 19.9, 20.0, 39.9]])
    z = np.concatenate([rng.uniform(-45, 45, 500), rng.uniform(-2, 2, 500), sizes, -sizes, edges, -edges])
    z = z.astype(dtype)
    logistic, tanh = through_forward(z, H, dtype)
    expected = exact(z.astype(float))
    like = logistic[:1]
    assert_close(logistic[:, None], expected[0][:, None], like=like)
    normal = np.abs(z) >= tiny
    assert_close((tanh[normal] / expected[1][normal].astype(dtype))[:, None], np.ones((normal.sum(), 1)), like=like)
    assert all(one in (value, 0) for one, value in zip(tanh[~normal], z[~normal], strict=True))
    assert np.all((logistic >= 0) & (logistic <= 1) & (np.abs(tanh) <= 1))


@pytest.mark.parametrize("H", [1, 5, 33])
@dtypes
def test_saturated_and_special_numbers(dtype, H):
    most = np.finfo(dtype).max
    large = np.array([1e6, 50, most / 2, most, np.inf], dtype)
    logistic, tanh = through_forward(np.concatenate([large, -large]), H, dtype)
    assert np.array_equal(logistic, np.repeat([1, 0], 5))
    assert np.array_equal(tanh, np.repeat([1, -1], 5))
    logistic, tanh = through_forward([0.0, -0.0, np.nan, 1.0], H, dtype)
    assert np.array_equal(logistic[:2], [0.5, 0.5])
    assert np.array_equal(tanh[:2], [0, 0])
    assert np.array_equal(np.isnan(logistic), [False, False, True, False])  # and not the neighbours
    assert np.array_equal(np.isnan(tanh), [False, False, True, False])


# --- One step


def step_problem(N, D, H, dtype, seed=0):
    values = random_problem(N, 1, D, H, seed)
    values["x"] = values["x"][:, 0]
    return tuple(values[name].astype(dtype) for name in ("x", "h0", "c0", "Wx", "Wh", "b"))


STEPS = [(1, 1, 1), (3, 17, 2), (2, 5, 33), (7, 40, 64), (13, 3, 68), (1, 70, 128)]
# Weights that are read in pieces; some have rows of both x and h.
STEPS += [(1, 101, 300), (2, 1, 252), (1, 515, 700)]
# Long sums.
STEPS += [(3, 512, 1024), (3, 4096, 256)]


@pytest.mark.parametrize("sizes", STEPS, ids=str)
@dtypes
def test_a_step_is_that_of_the_reference(library, dtype, sizes):
    lib, arguments = library("numpy"), step_problem(*sizes, dtype)
    wide = [v.astype(float) for v in arguments]
    before = [v.copy() for v in arguments]
    for v in arguments:
        v.flags.writeable = False
    results = numpy_numba.step(*arguments)
    for result, expected in zip(results, engines.load("array_api").step(*wide), strict=True):
        assert_close(result, expected, like=lib.asarray(wide[1], dtype))
    assert all(map(same_bits, numpy_numba.step(*arguments), results))  # in the opposite order
    for result, expected in zip(
        numpy_numba.step(*arguments[:5], None), numpy_numba.step(*arguments[:5], 0 * arguments[5]), strict=True
    ):
        assert same_bits(result, expected)
    assert all(map(same_bits, arguments, before))
    assert not any(np.shares_memory(result, v) for result in results for v in arguments)


@pytest.mark.parametrize("sizes", [(1, 19, 4), (3, 32, 16), (1, 5, 44), (2, 17, 256)], ids=str)
@dtypes
def test_where_weights_begin_changes_no_bit_of_a_step(dtype, sizes):
    """Vectors are read from a line of the cache on, wherever in it an array begins; what is left over comes last."""
    N, D, H = sizes
    rng = np.random.default_rng(0)
    shapes = ((N, D), (N, H), (N, H), (D, 4 * H), (H, 4 * H), (4 * H,))
    arguments = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    arguments[3:5] = [(v / len(v) ** 0.5).astype(dtype) for v in arguments[3:5]]
    expected = engines.load("array_api").step(*(v.astype("float64") for v in arguments))
    first = None
    for place in range(64 // np.dtype(dtype).itemsize):
        moved = [v if v.shape[0] == N else at_place(v, place) for v in arguments]
        results = numpy_numba.step(*moved)
        first = first or results
        for result, same, value in zip(results, first, expected, strict=True):
            assert same_bits(result, same)
            assert_close(result, value, like=arguments[0])


def at_place(v, place):
    """The same values, so many numbers behind a line of the cache."""
    raw = np.full(v.size + 32, np.nan, v.dtype)
    start = -raw.ctypes.data % 64 // v.itemsize + place
    raw[start : start + v.size] = v.ravel()
    return raw[start : start + v.size].reshape(v.shape)


@dtypes
def test_steps_are_the_sequence(library, dtype):
    lib = library("numpy")
    values = random_problem(3, 9, 17, 64)
    expected = run(rounded(values, dtype), engine="array_api")
    arrays = given(lib, values, dtype)
    h, c = arrays["h0"], arrays["c0"]
    for t in range(9):
        x = np.ascontiguousarray(arrays["x"][:, t])
        one, cache = forward(arrays | {"x": x[:, None], "h0": h, "c0": c}, engine=NAME)
        h, c = numpy_numba.step(x, h, c, arrays["Wx"], arrays["Wh"], arrays["b"])
        assert_close(h, one[:, 0].astype(float), like=h)
        assert_close(c, cache.c_n.astype(float), like=c)
        assert_close(h, expected["h"][:, t], like=h, steps=t + 1)
    assert_close(c, expected["c_n"], like=c, steps=9)


UNUSUAL = [
    (argument, layout)
    for argument in ("x", "h", "c", "Wx", "Wh", "b")
    for layout in ("Fortran", "unaligned", "embedded", "backwards")
]


@pytest.mark.parametrize(("argument", "layout"), UNUSUAL)
def test_a_step_takes_any_layout(argument, layout):
    arguments = step_problem(3, 17, 64, "float64")
    expected = engines.load("array_api").step(*arguments)
    place = ("x", "h", "c", "Wx", "Wh", "b").index(argument)
    arguments = [LAYOUTS[layout](v) if k == place else v for k, v in enumerate(arguments)]
    for result, value in zip(numpy_numba.step(*arguments), expected, strict=True):
        assert_close(result.astype(float), value)


# --- Where it cannot run


@pytest.mark.parametrize("dtype", ["float16", "complex128"])
def test_other_dtypes_are_refused(dtype):
    arrays = {name: value.astype(dtype) for name, value in random_problem().items()}
    with pytest.raises(EngineError, match=f"it computes float32 and float64, not {dtype}"):
        forward(arrays, engine=NAME)


@pytest.fixture
def obstacle():
    """Asked again, before and after."""
    numpy_numba.obstacle.cache_clear()
    yield
    numpy_numba.obstacle.cache_clear()


def refused_with(values, *texts):
    """Another engine runs, and gives what it gives; this one, by name, refuses."""
    first, second, *_ = lstm_xp.explain(*(values[name] for name in ("x", "h0", "Wx", "Wh", "b"))).splitlines()
    assert first == "numpy_fused: runs"
    assert second.startswith(f"{NAME}: refuses, ")
    for text in texts:
        assert text in second
    assert forward(values)[1].engine == numpy_fused.name
    with pytest.raises(EngineError, match=NAME):
        forward(values, engine=NAME)
    lstm_xp.warmup()


def test_without_numba_it_says_what_to_install(monkeypatch, obstacle):
    monkeypatch.setitem(sys.modules, "numba", None)
    refused_with(random_problem(), "numba is not installed", "pip install numba)")


def test_with_a_numba_that_cannot_be_imported_it_says_why(monkeypatch, obstacle):
    kernels = sys.modules["lstm_xp.engines.compiled.kernels"]

    class Old(types.ModuleType):
        def __getattr__(self, name):
            raise ImportError("Numba needs NumPy 1.0\nor less. Got 9.9.")

    old = Old("numba")
    old.__spec__ = sys.modules["numba"].__spec__
    monkeypatch.delattr(kernels.__name__)
    monkeypatch.delitem(sys.modules, kernels.__name__)
    monkeypatch.setitem(sys.modules, "numba", old)
    refused_with(random_problem(), "numba cannot be imported (Numba needs NumPy 1.0 or less. Got 9.9.)")


def test_warmup_runs():
    lstm_xp.warmup()
    lstm_xp.warmup(*numpy_numba.DTYPES)


def test_warmup_takes_what_numpy_takes_for_a_dtype(monkeypatch):
    for dtypes, names in (
        (["f4"], ["float32"]),
        ([np.float32, np.dtype("float64")], ["float32", "float64"]),
        ([float, "float64", "double"], ["float64"]),
        ([], ["float32", "float64"]),
    ):
        compiled = []
        monkeypatch.setattr(numpy_numba, "warmup", compiled.append)
        lstm_xp.warmup(*dtypes)
        assert compiled == names
    for dtype in ("float16", np.int32, None, "half a number", ",", object(), 3):
        with pytest.raises(ValueError, match="warmup: dtypes must be among float32, float64; got "):
            lstm_xp.warmup("float32", dtype)


# --- The cache on disk, and the notice, where the system does not give what they need


def plus_one(x):
    return x + 1


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """Compile a small function as the kernels are: how often it came from the cache; and the folder of that."""
    from numba import config, int64

    from lstm_xp.engines.compiled import compiled

    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))

    def compile():
        function = compiled(int64(int64))(plus_one)
        assert function(1) == 2
        return sum(function.stats.cache_hits.values())

    return compile, tmp_path


def test_what_is_compiled_is_kept(kept):
    compile, _ = kept
    assert (compile(), compile()) == (0, 1)


def test_what_is_kept_is_of_the_sources_as_they_are(tmp_path):
    """numba looks at the file of a kernel, and not at those that it calls into."""
    from lstm_xp.engines import compiled

    for name in ("kernels.py", "products.py"):
        (tmp_path / name).write_text("a = 1")
    before = compiled.digest(tmp_path)
    assert compiled.digest(tmp_path) == before
    (tmp_path / "products.py").write_text("a = 2")
    assert compiled.digest(tmp_path) != before
    kernel = numpy_numba._code(np.dtype("float32")).step
    assert kernel.py_func.__qualname__.endswith(compiled.digest(Path(compiled.__file__).parent))


def test_a_disk_that_is_full_costs_the_cache_only(kept, monkeypatch):
    from numba.core.caching import IndexDataCacheFile

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(IndexDataCacheFile, "_save_data", full)
    assert kept[0]() == 0


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
def test_a_cut_off_file_in_the_cache_is_no_obstacle(kept, ending):
    compile, folder = kept
    compile()
    (file,) = folder.rglob(f"*.{ending}")
    file.write_bytes(file.read_bytes()[:-20])
    assert compile() == 0


def test_without_another_thread_it_computes_without_a_notice(monkeypatch):
    def none(thread):
        raise RuntimeError("can't start new thread")

    values = random_problem()
    expected = numba_run(values)
    monkeypatch.setattr("threading.Thread.start", none)
    monkeypatch.setattr(numpy_numba, "_code", cache(numpy_numba._code.__wrapped__))
    for name, result in numba_run(values).items():
        assert same_bits(result, expected[name]), name
