"""The table of tolerances is as tight as it can be: errors of ten units of rounding fail, and most of it is used."""

import numpy as np
import pytest
from problems import GRADIENTS, ORDERS, compare, given, random_problem, reference, rounded, run, skip_without

from lstm_xp import testing
from lstm_xp.libraries import DTYPES, to_numpy
from lstm_xp.testing import TOLERANCES, assert_close

LIBRARY = {"bfloat16": "torch"}  # where each dtype is measured; NumPy unless said
SIZES = [(4, 5, 3, 2), (3, 1, 5, 4), (2, 40, 3, 6), (16, 3, 20, 33)]


def problem_of(lib, sizes, dtype, seed=0):
    values = rounded(random_problem(*sizes, seed=seed), dtype)
    return given(lib, values, dtype), reference(values)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["forward", "gradient"])
def test_ten_times_rounding_fails(library, dtype, kind):
    """Planted in the result of one step, everywhere or in the largest row alone."""
    lib = library(LIBRARY.get(dtype, "numpy"))
    arrays, expected = problem_of(lib, (4, 1, 3, 2), dtype)
    results = run(arrays)
    names = [name for name in results if (name in GRADIENTS) == (kind == "gradient")]
    for name in names:
        exact = expected[name]
        assert_close(results[name], exact, like=arrays["x"], kind=kind, name=name)
        planted = 10 * TOLERANCES[dtype].eps * exact
        largest = np.linalg.norm(exact, axis=-1, keepdims=True)
        for wrong in (exact + planted, exact + np.where(largest == np.max(largest), planted, 0)):
            # In float64, so that the planted error is not rounded away.
            error = testing.relative_error(wrong, exact)
            assert error > testing.limit(dtype, kind), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["forward", "gradient"])
def test_limits_are_not_ten_times_what_is_seen(library, dtype, kind):
    lib = library(LIBRARY.get(dtype, "numpy"))
    worst = 0
    for seed, sizes in enumerate(SIZES):
        arrays, expected = problem_of(lib, sizes, dtype, seed)
        results = run(arrays, engine="array_api")
        results = {name: v for name, v in results.items() if (name in GRADIENTS) == (kind == "gradient")}
        worst = max(worst, compare(results, expected, arrays["x"], steps=sizes[1]))
    assert 0.1 < worst <= 1


@pytest.mark.without("numpy-readonly", "array-api-strict", "jax", "dask")
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_order_and_engine_keeps_the_limits(lib, engine, dtype):
    """A few random problems each, on the libraries that take no time."""
    skip_without(lib, dtype)
    for seed in range(4):
        values = rounded(random_problem(seed=seed), dtype)
        for order in ORDERS.values():
            arrays = given(lib, values, dtype)
            compare(run(arrays, engine=engine, **order), reference(values, **order), arrays["x"], steps=5)


def test_rounding_to_each_dtype(library):
    """What the references are computed from is what the library holds."""
    values = random_problem()
    for dtype in DTYPES:
        lib = library(LIBRARY.get(dtype, "numpy"))
        for name, value in rounded(values, dtype).items():
            assert np.array_equal(to_numpy(lib.asarray(values[name], dtype)).astype(float), value), (dtype, name)
