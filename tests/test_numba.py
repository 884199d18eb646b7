"""The compiled engine of NumPy, beyond the contract that `test_engines.py` holds every engine to.

Here: its products, its functions of one number, its step, arrays of any layout. What concerns threads is in
`test_numba_threads.py`, what takes another process in `test_numba_processes.py`.
"""

import sys
import types
from decimal import Decimal, localcontext
from fractions import Fraction
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
    "bytes swapped": lambda v: v.astype(v.dtype.newbyteorder()),
    "unaligned, bytes swapped": lambda v: unaligned(v.astype(v.dtype.newbyteorder())),
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


# --- Products: whole numbers are multiplied and added exactly, in whatever order

ROWS = (0, 1, 5, 6, 7, 8, 9, 241)  # a tile has six or eight rows; 240 are taken at a time
DEPTHS = (1, 2, 127, 128, 129, 511, 512, 513, 1030)  # 512 are taken at a time, of which a tile takes 128
COLUMNS = (0, 1, 7, 8, 15, 16, 17, 31, 33, 64, 65, 201)  # of each width of a panel: less, one, more


def whole(rng, *shape):
    return rng.integers(-8, 9, shape).astype(float)


@pytest.mark.parametrize("rows", ROWS)
@dtypes
def test_products_of_all_sizes(rows, dtype):
    rng = np.random.default_rng(rows)
    for depth in DEPTHS:
        for columns in COLUMNS:
            A, B, bias = whole(rng, rows, depth), whole(rng, depth, columns), whole(rng, columns)
            a, b, c = (v.astype(dtype) for v in (A, B, bias))
            for left in (a, np.asfortranarray(a)):
                assert same_bits(numpy_numba.product(left, b, c), (A @ B + bias).astype(dtype)), (depth, columns)
            assert same_bits(numpy_numba.product(a, np.asfortranarray(b)), (A @ B).astype(dtype)), (depth, columns)


@pytest.mark.parametrize("right", LAYOUTS)
@pytest.mark.parametrize("left", LAYOUTS)
@dtypes
def test_products_of_all_layouts(left, right, dtype):
    rng = np.random.default_rng(0)
    A, B, bias = whole(rng, 13, 521), whole(rng, 521, 71), whole(rng, 71)
    expected = (A @ B + bias).astype(dtype)
    a, b = LAYOUTS[left](A.astype(dtype)), LAYOUTS[right](B.astype(dtype))
    before = a.tobytes(), b.tobytes()
    for c in (layout(bias.astype(dtype)) for layout in LAYOUTS.values()):
        assert same_bits(numpy_numba.product(a, b, c), expected)
    assert (a.tobytes(), b.tobytes()) == before


@pytest.mark.parametrize("sizes", [(1, 1, 3, 1), (170, 3, 2, 9), (90, 13, 250, 33)], ids=str)  # 512 steps at a time
@dtypes
def test_gradients_of_weights_are_sums_over_all_steps(dtype, sizes):
    T, N, D, H = sizes
    rng = np.random.default_rng(0)
    x, h0, h, da = whole(rng, T, N, D), whole(rng, N, H), whole(rng, T, N, H), whole(rng, T, N, 4 * H)
    left = np.concatenate([x, [h0, *h[:-1]], np.ones((T, N, 1))], axis=-1)
    expected = np.einsum("tnk,tnj->kj", left, da).astype(dtype)
    for order in ("C", "F"):
        given = (v.astype(dtype, order=order) for v in (x, h0, h, da))
        dWx, dWh, db = numpy_numba.weight_gradients(*given)
        assert same_bits(np.concatenate([dWx, dWh, db[None]]), expected)


def test_products_of_repeated_rows_and_columns():
    """Strides of zero, as broadcasting makes them."""
    rng = np.random.default_rng(0)
    A, B = np.broadcast_to(whole(rng, 1, 21), (9, 21)), np.broadcast_to(whole(rng, 21, 1), (21, 70))
    for a, b in ((A, B), (A, B.copy()), (A.copy(), B), (B.T, A.T), (np.broadcast_to(2.0, (9, 21)), B)):
        assert same_bits(numpy_numba.product(a, b), a @ b)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_product_is_as_exact_as_the_table_asks(transposed):
    rng = np.random.default_rng(1)
    A, B, bias = rng.standard_normal((7, 130)), rng.standard_normal((130, 9)), rng.standard_normal(9)
    left, right, last = (np.vectorize(Fraction, otypes=[object])(v) for v in (A, B, bias))
    exact = (left @ right + last).astype(float)
    assert_close(numpy_numba.product(np.asfortranarray(A) if transposed else A, B, bias), exact)
    narrow = [v.astype(np.float32) for v in (A, B, bias)]
    exact = narrow[0].astype(float) @ narrow[1].astype(float) + narrow[2]
    assert_close(numpy_numba.product(*narrow), exact, like=narrow[2])


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
    """The logistic function beside 1; tanh beside itself, however small it is."""
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
    assert same_bits(tanh[~normal], z[~normal])
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
    for layout in ("Fortran", "unaligned", "embedded", "backwards", "bytes swapped")
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
    refused_with(random_problem(), "numba is not installed", "pip install 'lstm-xp[numba]'")


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
    numpy_numba._code.cache_clear()
    for name, result in numba_run(values).items():
        assert same_bits(result, expected[name]), name
