"""The contract of an engine, for every engine of every library, over one grid of sizes and dtypes.

What is compared with: the reference engine in float64 on NumPy, on the same (rounded) inputs.
"""

import numpy as np
import pytest
from problems import given, host, refusal, rounded, same_bits, skip_without

from lstm_xp import checks, engines, lstm_backward, lstm_forward
from lstm_xp.libraries import DTYPES, open_library, to_numpy
from lstm_xp.testing import assert_close, relative_error

# T, N, H: the smallest, odd ones, a large batch and a large width (which are worked on in blocks), a long one.
SIZES = [(1, 8, 1), (5, 4, 2), (3, 1, 7), (2, 300, 33), (2, 40, 300), (150, 2, 3)]
grid = pytest.mark.parametrize("sizes", SIZES, ids=str)
dtypes = pytest.mark.parametrize("dtype", DTYPES)

WIDE = ("a", "c0")  # arguments that have the compute dtype; the others have the caller's
FORWARD = ("h", "c_n", "c", "gates")
BACKWARD = ("da", "dh0", "dc0")


def engine_problem(T, N, H, seed=1):
    rng = np.random.default_rng(seed)
    shapes = {"a": (T, N, 4 * H), "h0": (N, H), "c0": (N, H), "Wh": (H, 4 * H)}
    shapes |= {"dh": (T, N, H), "dh_n": (N, H), "dc_n": (N, H)}
    values = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    values["Wh"] /= H**0.5
    return values


def arrays_of(lib, values, dtype):
    compute = checks.COMPUTE_DTYPE[dtype]
    return {name: lib.asarray(value, compute if name in WIDE else dtype) for name, value in values.items()}


def rounded_as(values, dtype):
    narrow = rounded({name: value for name, value in values.items() if name not in WIDE}, dtype)
    return narrow | rounded({name: values[name] for name in WIDE}, checks.COMPUTE_DTYPE[dtype])


def run_engine(engine, arrays, keep=True):
    """Results by name. The pre-activations are copied: an engine may write over them."""
    module = engines.load(engine)
    xp = checks.namespace(arrays["a"])
    a = xp.astype(arrays["a"], arrays["a"].dtype, copy=True)
    results = dict(zip(FORWARD, module.forward(a, arrays["h0"], arrays["c0"], arrays["Wh"], keep=keep), strict=True))
    if not keep:
        return results
    cotangents = (arrays[name] for name in ("dh", "dh_n", "dc_n"))
    gradients = module.backward(*cotangents, results["gates"], results["c"], arrays["c0"], arrays["Wh"])
    return results | dict(zip(BACKWARD, gradients, strict=True))


def skip_unless_it_runs(engine, lib, dtype, sizes):
    skip_without(lib, dtype)
    T, N, H = sizes
    reason = refusal(engine, lib, dtype, N=N, T=T, H=H)
    if reason:
        pytest.skip(f"{engine}: {reason}")
    if lib.name in ("jax", "dask") and sizes != (5, 4, 2):
        pytest.skip(f"{lib.name}: other sizes take long, and the engine is the same as on NumPy")


@grid
@dtypes
def test_results_are_those_of_the_reference(lib, engine, dtype, sizes):
    skip_unless_it_runs(engine, lib, dtype, sizes)
    values = engine_problem(*sizes)
    expected = run_engine("array_api", rounded_as(values, dtype))
    results = run_engine(engine, arrays_of(lib, values, dtype))
    wide, narrow = lib.asarray(values["c0"], checks.COMPUTE_DTYPE[dtype]), lib.asarray(values["h0"], dtype)
    for name, result in results.items():
        kind = "gradient" if name in BACKWARD else "forward"
        share = {"kind": kind, "steps": sizes[0], "name": name}
        # da of bfloat16 may be bfloat16.
        own = name == "h" or (name == "da" and checks.dtype_name(result.dtype) == "bfloat16" == dtype)
        if own or checks.COMPUTE_DTYPE[dtype] == dtype:
            assert_close(result, expected[name], like=narrow if own else wide, **share)
        else:
            # Of the compute dtype, but with the errors that a rounded h brings along.
            assert_close(result, to_numpy(result), like=wide, **share)
            assert_close(lib.asarray(to_numpy(result), dtype), expected[name], like=narrow, **share)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_it_is_the_rounded_h_that_goes_on(lib, engine, dtype):
    """With half types everything but h is float32: each step agrees in float32 with one from the h returned."""
    sizes = (5, 4, 2)
    skip_unless_it_runs(engine, lib, dtype, sizes)
    values = engine_problem(*sizes)
    results = host(run_engine(engine, arrays_of(lib, values, dtype)))
    exact = rounded_as(values, dtype)
    h, c = exact["h0"], exact["c0"]
    like = lib.asarray(exact["c0"], "float32")
    for t in range(sizes[0]):
        step = {**exact, "a": exact["a"][t : t + 1], "h0": h, "c0": c}
        expected = run_engine("array_api", step)
        assert_close(lib.asarray(results["c"][t]), expected["c_n"], like=like, name=f"c at step {t}")
        assert_close(lib.asarray(results["gates"][t]), expected["gates"][0], like=like, name=f"gates at step {t}")
        assert_close(lib.asarray(results["h"][t], dtype), expected["h"][0], like=lib.asarray(h, dtype), name="h")
        h, c = results["h"][t].astype(float), results["c"][t].astype(float)


@pytest.mark.computes("float16")
def test_it_is_not_the_unrounded_h_that_goes_on(engine, library):
    """The test above can tell: with the float32 h of each step in place of the rounded one it would fail."""
    lib, values = library("numpy"), engine_problem(5, 4, 2)
    results = run_engine(engine, arrays_of(lib, values, "float16"))
    exact = rounded_as(values, "float16")
    unrounded = run_engine("array_api", {**exact})
    with pytest.raises(AssertionError):
        assert_close(results["c"][-1], unrounded["c_n"], like=results["c_n"])


@dtypes
def test_only_what_is_kept_differs(lib, engine, dtype):
    sizes = (5, 4, 2)
    skip_unless_it_runs(engine, lib, dtype, sizes)
    arrays = arrays_of(lib, engine_problem(*sizes), dtype)
    results, light = run_engine(engine, arrays), run_engine(engine, arrays, keep=False)
    assert light.pop("c") is None
    assert light.pop("gates") is None
    results, light = host(results), host(light)
    for name in ("h", "c_n"):
        assert same_bits(results[name], light[name]), name
    assert same_bits(results["c"][-1], results["c_n"])


@pytest.mark.without("dask")
@dtypes
def test_repeated_calls_give_the_same_bits_and_share_nothing(lib, engine, dtype):
    sizes = (5, 4, 2)
    skip_unless_it_runs(engine, lib, dtype, sizes)
    arrays = arrays_of(lib, engine_problem(*sizes), dtype)
    first = run_engine(engine, arrays)
    before = host(first)
    run_engine(engine, arrays_of(lib, engine_problem(*sizes, seed=2), dtype))
    second = host(run_engine(engine, arrays))
    for name, result in host(first).items():
        assert same_bits(result, before[name]), f"{name} was written to by a later call"
        assert same_bits(result, second[name]), f"{name} differs when repeated"


@grid
def test_nothing_but_the_preactivations_is_written_to(engine, library, sizes):
    arrays = engine_problem(*sizes)
    before = {name: array.copy() for name, array in arrays.items()}
    for name, array in arrays.items():
        array.flags.writeable = name == "a"
    module = engines.load(engine)
    h, c_n, c, gates = module.forward(arrays["a"].copy(), arrays["h0"], arrays["c0"], arrays["Wh"], keep=True)
    kept = [array.copy() for array in (h, c_n, c, gates)]
    for array in (h, c_n, c, gates):
        array.flags.writeable = False
    module.backward(arrays["dh"], arrays["dh_n"], arrays["dc_n"], gates, c, arrays["c0"], arrays["Wh"])
    assert all(map(same_bits, (h, c_n, c, gates), kept))
    assert all(same_bits(arrays[name], before[name]) for name in arrays)


@pytest.mark.parametrize("absent", [("dh",), ("dh_n",), ("dc_n",), ("dh", "dh_n"), ("dh_n", "dc_n")], ids=str)
def test_absent_cotangents_are_zeros(lib, engine, absent):
    if lib.name == "dask" and len(absent) == 1:
        pytest.skip("dask: two of five are enough")
    values = engine_problem(5, 4, 2)
    with_none = {name: None if name in absent else array for name, array in given(lib, values).items()}
    expected = run_engine("array_api", {**values, **{name: 0 * values[name] for name in absent}})
    results = run_engine(engine, with_none)
    for name in BACKWARD:
        assert_close(results[name], expected[name], like=with_none["a"], kind="gradient", steps=5, name=name)


LAYOUTS = {
    "batch-major": lambda v: np.ascontiguousarray(v.swapaxes(0, 1)).swapaxes(0, 1),
    "Fortran": np.asfortranarray,
    "reversed": lambda v: np.ascontiguousarray(v[::-1])[::-1],
    "every second": lambda v: np.repeat(v, 2, axis=-1)[..., ::2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides(engine, layout):
    values = engine_problem(5, 4, 2)
    expected = run_engine(engine, values)
    results = run_engine(engine, {name: LAYOUTS[layout](value) for name, value in values.items()})
    for name, result in results.items():
        kind = "gradient" if name in BACKWARD else "forward"
        assert_close(result, expected[name], kind=kind, steps=5, name=name)
    # What is handed to backward has any strides, too.
    module = engines.load(engine)
    gates, c = LAYOUTS[layout](results["gates"]), LAYOUTS[layout](results["c"])
    gradients = module.backward(values["dh"], values["dh_n"], values["dc_n"], gates, c, values["c0"], values["Wh"])
    for name, gradient in zip(BACKWARD, gradients, strict=True):
        assert_close(gradient, expected[name], kind="gradient", steps=5, name=name)


@pytest.mark.without("dask")
@dtypes
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_goes_through(lib, engine, dtype, odd):
    """As in the reference: every NaN of it is a NaN here, every infinity the same one."""
    skip_unless_it_runs(engine, lib, dtype, (5, 4, 2))
    for name, place in {"a": (1, 2, 3), "h0": (2, 1), "c0": (2, 0), "dh": (3, 2, 1), "dc_n": (2, 1)}.items():
        values = engine_problem(5, 4, 2)
        values[name][place] = odd
        with np.errstate(invalid="ignore"):
            expected = run_engine("array_api", rounded_as(values, dtype))
            results = host(run_engine(engine, arrays_of(lib, values, dtype)))
        for result, value in results.items():
            where = f"{odd} in {name}: {result}"
            assert np.array_equal(np.isnan(value), np.isnan(expected[result])), where
            infinite = np.isinf(expected[result])
            assert np.array_equal(value[infinite], expected[result][infinite]), where


@dtypes
def test_saturated_gates_are_exact(lib, engine, dtype):
    """The pre-activations behind the lengths carry the state: i = 0, f = 1, o = 0, and gradients that are exactly 0."""
    skip_unless_it_runs(engine, lib, dtype, (5, 4, 2))
    values = engine_problem(5, 4, 2)
    big = float(np.finfo(checks.COMPUTE_DTYPE[dtype]).max) / 2
    values["a"][3:] = np.repeat([-big, big, -big, 0.0], 2)
    results = host(run_engine(engine, arrays_of(lib, values, dtype)))
    assert np.all(results["h"][3:] == 0)
    assert same_bits(results["c_n"], results["c"][2])
    assert np.all(results["gates"][3:, :, :6] == np.repeat([0, 1, 0], 2))
    assert np.all(results["da"][3:] == 0)


@pytest.mark.parametrize("name", ["numpy_numba", "numpy_fused"])
@pytest.mark.parametrize(("N", "H"), [(1, 64), (2, 37), (40, 33)])
def test_what_fades_away_becomes_zero(name, N, H):
    """Else it stays the smallest number there is, times 0.7 and rounded, with which processors are very slow."""
    reason = refusal(name, open_library("numpy"), "float32")
    if not reason and name == "numpy_numba":
        from lstm_xp.engines.compiled.denormals import X86

        reason = "" if X86 else "other processors are as quick with denormal numbers"
    if reason:
        pytest.skip(reason)
    rng, T, D = np.random.default_rng(0), 700, 2
    x, Wx, Wh = (rng.standard_normal(shape, dtype=np.float32) / 40 for shape in ((N, T, D), (D, 4 * H), (H, 4 * H)))
    h0, b = rng.standard_normal((N, H), dtype=np.float32), np.repeat(np.float32([0, 1, 0, 0]), H)

    gradients, expected = (
        lstm_backward(None, lstm_forward(x, h0, Wx, Wh, b, engine=each)[1], dh_n=h0) for each in (name, "array_api")
    )
    assert np.any(expected.dc0 != 0)  # what would be there
    assert not np.any(gradients.dh0)
    assert not np.any(gradients.dc0)
    assert_close(gradients.dx, expected.dx, kind="gradient", steps=T)
    for training in (True, False):
        h, cache = lstm_forward(0 * x, h0, Wx, Wh, b, training=training, engine=name)
        assert not np.any(cache.h_n)
        assert not np.any(cache.c_n)
        assert np.all(h[:, 99])


def test_a_huge_recurrent_product_does_not_unsaturate(engine):
    """What lengths rely on: gates stay saturated whatever h @ Wh adds."""
    values = engine_problem(5, 4, 2)
    big = float(np.finfo("float64").max) / 2
    values["a"][3:] = np.repeat([-big, big, -big, 0.0], 2)
    values["Wh"] *= 1e300
    results = run_engine(engine, values)
    assert same_bits(results["c"][4], results["c"][2])


def test_errors_do_not_grow_with_the_length(engine, library):
    """A float32 sequence of 600 steps keeps within the table, which grows with the square root only."""
    lib, values = library("numpy"), engine_problem(600, 2, 5)
    expected = run_engine("array_api", rounded_as(values, "float32"))
    results = run_engine(engine, arrays_of(lib, values, "float32"))
    for name, result in results.items():
        kind = "gradient" if name in BACKWARD else "forward"
        assert_close(result, expected[name], like=lib.asarray(values["h0"], "float32"), kind=kind, steps=600, name=name)
    assert relative_error(results["h"], expected["h"]) > 0


def test_tables_name_engines_that_exist():
    for library_name, names in engines.ENGINES.items():
        assert names[-1] == "array_api"
        for name in names:
            assert engines.load(name).name == name
            assert name in engines.candidates(library_name)
            assert name in engines.names()
