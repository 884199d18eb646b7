"""The cell variants in compiled code, beyond what `test_variants.py` asks of every engine that computes them.

Here: sizes and layouts of arrays, activations at their ends. The choice of the engine, its products and how it is
compiled are in `test_variants_engine.py`, threads in `test_variants_threads.py`; that nothing beyond an array is
touched, and that narrower registers do, in `test_numba_processes.py`.
"""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from problems import orders, rounded
from test_numba import LAYOUTS, layouts
from test_variant_gradients import searches
from variant_problems import (  # fmt: skip
    COTANGENTS,
    MANY,
    MASKS,
    PLAIN,
    VARIANTS,
    assert_same,
    backward,
    compare,
    forward,
    numba_run,
    orders_of,
    outputs_of,
    random_problem,
    run,
    typed,
)

from lstm_xp import Direction, engines
from lstm_xp.activations import activation
from lstm_xp.engines import numpy_numba
from lstm_xp.testing import assert_close, check_gradients
from lstm_xp.variant_cells import Cell, CellMasks, Norms

pytest.importorskip("numba")
if numpy_numba.obstacle():
    pytest.skip(numpy_numba.obstacle(), allow_module_level=True)

from lstm_xp.engines.compiled.activations import NAMES

NAME, REFERENCE = numpy_numba.name, engines.load("array_api")
MOST = MANY["all but layer norm"]
dtypes = pytest.mark.parametrize("dtype", numpy_numba.DTYPES)
named = pytest.mark.parametrize("variant", MANY.values(), ids=MANY)


# --- Values

# N, T, D, H, P, and a seed of ordinary condition: what nearly cancels multiplies what was rounded.
SIZES = [
    (6, 1, 3, 1, 1, 1),
    (2, 2, 3, 3, 1, 8),
    (3, 7, 2, 3, 3, 1),
    (1, 2, 3, 17, 17, 0),
    (9, 7, 3, 16, 5, 7),
    (5, 2, 4, 33, 7, 1),
    (7, 1, 5, 40, 16, 1),
]


# Of one cell state its normalisation leaves nothing.
CASES = [(name, sizes) for name in VARIANTS for sizes in SIZES if sizes[3] > 1 or not VARIANTS[name].layer_norm]


@pytest.mark.parametrize(("name", "sizes"), CASES, ids=str)
def test_values_and_gradients_of_every_size(name, sizes):
    """Outputs of the scalar oracle; gradients of the reference engine in float64, which complex steps prove."""
    variant, (N, T, *_) = VARIANTS[name], sizes
    values = rounded(random_problem(variant, *sizes), "float32")
    for order in orders_of(N, T):
        expected = run(variant, values, engine=REFERENCE.name, **order) | outputs_of(variant, values, **order)
        for dtype in numpy_numba.DTYPES:
            arrays = typed(values, dtype)
            results = numba_run(variant, arrays, **order)
            assert set(results) == set(expected)
            compare(results, expected, arrays["x"], steps=T)


@pytest.mark.parametrize("sizes", [(2, 4, 3, 1, 1), (3, 3, 2, 17, 5)], ids=str)
def test_layer_norm_of_one_cell_state_and_of_few(sizes):
    """In float64, within what cancellation leaves of its digits."""
    for name in ("layer norm", "all", "all, coupled"):
        values = random_problem(VARIANTS[name], *sizes)
        expected, results = (run(VARIANTS[name], values, engine=engine) for engine in (REFERENCE.name, NAME))
        for key, result in results.items():
            assert np.max(np.abs(result - expected[key])) <= 1e-11 * max(1, np.max(np.abs(expected[key]))), key


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(search=searches())
def test_any_combination_is_that_of_the_reference(search):
    """Which `test_variant_gradients.py` proves for the same problems."""
    variant, values, order = search
    assume(not numpy_numba.lacks(variant.cell))
    expected = run(variant, values, engine=REFERENCE.name, **order)
    for name, result in numba_run(variant, values, **order).items():
        worst = max(1.0, np.max(np.abs(expected[name]), initial=0))
        assert np.max(np.abs(result - expected[name]), initial=0) <= 1e-10 * worst, name


SMOOTH = ("Sigmoid", ("ScaledTanh", 1.3, 0.7), "Tanh")


@orders
@pytest.mark.parametrize("name", MANY)
def test_gradients_are_derivatives(name, order):
    """By central differences, which kinks would disturb: activations are smooth, and nothing reaches the bound."""
    clip = None if MANY[name].clip is None else 60.0
    variant = MANY[name]._replace(activations=SMOOTH if MANY[name].activations != PLAIN else PLAIN, clip=clip)
    values = random_problem(variant, D=7, H=24, P=11, seed=1)
    masks = {key: value for key, value in values.items() if key in MASKS}
    arguments = {key: value for key, value in values.items() if key not in (*COTANGENTS, *MASKS)}

    def outputs(**arrays):
        h, cache = forward(variant, arrays | masks, engine=NAME, **order)
        return (h, cache.h_n, cache.c_n), cache

    def gradients(cotangents, cache):
        return backward(dict(zip(COTANGENTS, cotangents, strict=True)), cache)

    errors = check_gradients(outputs, gradients, arguments, directions=1)
    assert set(errors) == set(arguments)


@pytest.mark.parametrize("given_one", [*COTANGENTS, None])
@dtypes
def test_cotangents_that_are_left_out_are_zeros(dtype, given_one):
    for variant in (VARIANTS["all"], MOST):
        values = rounded(random_problem(variant, 3, 4, 3, 17, 5), dtype)
        zeros = {name: np.zeros_like(values[name]) for name in COTANGENTS if name != given_one}
        _, cache = forward(variant, typed(values, dtype), engine=NAME)
        some = {given_one: values[given_one].astype(dtype)} if given_one else {}
        assert_same(backward(some, cache), backward(typed(values | zeros, dtype), cache))


@dtypes
def test_a_gradient_of_the_last_output_alone_fades(dtype):
    """Over two thousand steps it passes all denormal numbers: it ends at 0, and the parameters' are right."""
    T = 2000
    for variant in (VARIANTS["projection"], VARIANTS["all"]._replace(clip=None)):
        values = rounded(random_problem(variant, 2, T, 3, 17, 5), dtype)
        values["dy"][:, :-1] = 0
        for name in ("dh_n", "dc_n"):
            values[name] = np.zeros_like(values[name])
        _, cache = forward(variant, values, engine=REFERENCE.name)
        expected = backward(values, cache)
        _, cache = forward(variant, typed(values, dtype), engine=NAME)
        arrays = typed(values, dtype)
        found = backward(arrays, cache)
        sizes = np.abs(found["x"])
        assert not np.any((sizes > 0) & (sizes < np.finfo(dtype).tiny))
        assert np.any(found["x"][:, -1])
        for name in ("x", "Wx", "Wh", "b"):
            assert_close(found[name], expected[name], like=arrays["x"], kind="gradient", steps=T, name=name)


# --- Arrays of any layout, and whose they are


@layouts
@dtypes
@pytest.mark.parametrize("name", ["all", "all, coupled", "all but layer norm"])
def test_a_layout_changes_no_bit(name, dtype, layout):
    """Every argument, mask and cotangent in that layout; all stay what they were."""
    arrays = typed(random_problem(MANY[name], 5, 7, 19, 33, 6), dtype)
    expected = [numba_run(MANY[name], arrays, **order) for order in orders_of(5, 7)]
    laid = {key: LAYOUTS[layout](value) for key, value in arrays.items()}
    before = {key: array.tobytes() for key, array in laid.items()}
    for order, wanted in zip(orders_of(5, 7), expected, strict=True):
        assert_same(numba_run(MANY[name], laid, **order), wanted, str(order))
    assert all(array.tobytes() == before[key] for key, array in laid.items())


@dtypes
def test_repeated_rows_and_columns_change_no_bit(dtype):
    """Strides of zero, as broadcasting makes them."""
    arrays = typed(random_problem(MOST, 5, 7, 19, 33, 6), dtype)
    repeated = {name: np.broadcast_to(value[:1], value.shape) for name, value in arrays.items()}
    repeated["dy"] = np.broadcast_to(arrays["dy"][0, 0, 0], arrays["dy"].shape)
    expected = numba_run(MOST, {name: value.copy() for name, value in repeated.items()})
    assert_same(numba_run(MOST, repeated), expected)


@named
def test_what_is_returned_is_nobody_elses(variant):
    """Not the arguments' memory, nor that of a later call, nor that of each other."""
    for order in orders_of(4, 5):
        arrays = random_problem(variant)
        h, cache = forward(variant, arrays, engine=NAME, **order)
        found = backward(arrays, cache)
        held = {"h": h, "h_n": cache.h_n, "c_n": cache.c_n, **{f"d{name}": v for name, v in found.items()}}
        held |= {name: getattr(cache, name) for name in ("c", "cells", "gates", *(["z"] if variant.clip else []))}
        before = {name: value.copy() for name, value in held.items()}
        numba_run(variant, random_problem(variant, seed=9), **order)
        numba_run(variant, arrays, **order)
        assert all(np.array_equal(value, before[name]) for name, value in held.items())
        for result in (h, cache.h_n, cache.c_n, *found.values()):
            assert result.flags.writeable
            assert not any(np.shares_memory(result, argument) for argument in arrays.values())
            assert sum(np.shares_memory(result, other) for other in held.values()) == 1


# --- Activations, at their ends, too


def through_cells(kinds, z, c0, dtype, **cell):
    """What the engine, and the reference in float64, make of each number of z as the pre-activation of every gate.

    Gates, h and c of cells that begin with c0; and the gradients of z and c0 where those of h and c are ones.
    """
    H, zeros = len(z), np.zeros((1, len(z)), dtype)
    found = []
    for engine, kind in ((numpy_numba, dtype), (REFERENCE, float)):
        a, c = (np.asarray(v, dtype).astype(kind)[None] for v in (np.tile(z, 4), c0))
        h0, p = zeros.astype(kind), Direction(Wx=None, Wh=np.zeros((H, 4 * H), kind))
        cell_of = Cell(tuple(activation("test", one) for one in kinds), **cell)
        with np.errstate(all="ignore"):
            h, c_n, states = engine.cells(a[None].copy(), h0, c, p, cell_of, CellMasks(), None, keep=True)
            given = [None, np.ones_like(h0), np.ones_like(c), c, states, Norms(), p, cell_of, CellMasks(), None]
            _, dc0, between = engine.cells_gradients(*given)
        found.append({"gates": states.gates[0, 0].reshape(4, H), "h": h[0], "c": c_n, "dz": between.dz[0], "dc0": dc0})
    return found


def at_ends(kinds, z, c0, dtype):
    """Gates and h of cells with pre-activations z (4H,) that begin with c0, by the engine."""
    H = len(c0)
    p, cell = Direction(Wx=None, Wh=np.zeros((H, 4 * H), dtype)), Cell(tuple(activation("test", one) for one in kinds))
    start = np.zeros((1, H), dtype)
    arguments = z.astype(dtype)[None, None], start, c0.astype(dtype)[None], p, cell, CellMasks(), None
    h, _, states = numpy_numba.cells(*arguments, keep=True)
    return {"gates": states.gates[0, 0].reshape(4, H), "h": h[0, 0]}


CONSTANTS = {
    "Affine": (0.7, 0.2), "LeakyRelu": (0.2,), "ThresholdedRelu": (0.75,), "ScaledTanh": (1.7, 0.6),
    "HardSigmoid": (0.3, 0.4), "Elu": (0.6,),
}  # fmt: skip
RANGE = np.concatenate([np.linspace(-9, 9, 300), np.linspace(-45, 45, 91), 10.0 ** np.arange(-30, 0, 2.0)])
ENDS = np.array([-np.inf, -100.0, -50.0, -40.0, 40.0, 50.0, 100.0, np.inf, np.nan, 0.5])
kinds_and_places = [(name, place) for name in NAMES for place in range(3)]


@pytest.mark.parametrize(("name", "place"), kinds_and_places)
@dtypes
def test_activations_and_slopes_are_those_of_the_table(dtype, name, place):
    """As F, G and H, with the defaults and with constants: each number within a few roundings, or the same inf or NaN.

    Elsewhere the cell is in the middle of its range, so that every slope is felt. Three factors may be as large as z.
    """
    for constants in ((), CONSTANTS.get(name, ())):
        kinds = list(PLAIN)
        kinds[place] = (name, *constants)
        for z in (RANGE, ENDS):
            middle = np.full_like(z, 0.4)
            c0, z = (z, middle) if place == 2 else (middle, z)
            for cell in ({}, {"coupled": True}, {"clip": 60.0}, {"clip": 1.2}):
                found, expected = through_cells(kinds, z, c0, dtype, **cell)
                if cell.get("coupled"):  # nobody asks for the gate that is not used: 0, though 0 times NaN is NaN
                    expected["dz"][0, len(z) : 2 * len(z)] = 0
                near = 4 * np.finfo(dtype).eps * (1 + np.abs(np.nan_to_num(z + c0, nan=0, posinf=60, neginf=60))) ** 2
                for key, result in found.items():
                    wanted = expected[key].astype(dtype)
                    finite = np.isfinite(wanted)
                    assert np.array_equal(result[~finite], wanted[~finite], equal_nan=True), key
                    limits = np.resize(near, result.size).reshape(result.shape)[finite]
                    assert np.all(np.abs(result[finite] - expected[key][finite]) <= limits), key


@pytest.mark.parametrize("place", range(3))
@dtypes
def test_saturated_activations_are_exact(dtype, place):
    """0, 1 and -1, from wherever the last digit is lost up to the largest number and inf; a NaN leaves others alone."""
    most = float(np.finfo(dtype).max)
    high = np.array([41.0, 60.0, 1e6, most / 4, most, np.inf])
    for name, low_end in (("Sigmoid", 0), ("Tanh", -1), ("HardSigmoid", 0), (("ScaledTanh", 1.0, 1.0), -1)):
        kinds = list(PLAIN)
        kinds[place] = name
        for z, end in ((high, 1), (-high, low_end)):
            z = np.append(z, [np.nan, 0.0])
            # With gates that are exactly 0, 1 and 1 of the plain cell, h is what the last activation makes of c0.
            of_gates = np.repeat([-1e6, 1e6, 1e6, 0.0], len(z)) if place == 2 else np.tile(z, 4)
            found = at_ends(kinds, of_gates, z if place == 2 else np.zeros_like(z), dtype)
            for result in [found["h"]] if place == 2 else found["gates"][:3] if place == 0 else found["gates"][3:]:
                assert np.all(result[:6] == end), name
                assert np.array_equal(np.isnan(result), np.isnan(z)), name
