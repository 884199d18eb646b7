"""The gradients of the cell variants are their derivatives: by complex steps, which kinks do not disturb."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import orders
from variant_problems import (
    COTANGENTS,
    MASKS,
    VARIANTS,
    Variant,
    backward,
    compare,
    forward,
    outputs_of,
    random_problem,
)

from lstm_xp.activations import KINDS
from lstm_xp.testing import DERIVATIVE_LIMITS, check_gradients

named = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)


def arguments_of(values):
    return {name: value for name, value in values.items() if name not in (*COTANGENTS, *MASKS)}


def gates_of(name, gradient):
    """The parts of a parameter's gradient by gate, where it has such parts."""
    if name == "peepholes":
        return list(zip("ifo", gradient, strict=True))
    if name in ("Wx", "Wh", "b", "gain_x", "gain_h"):
        return list(zip("ifog", np.split(gradient, 4, axis=-1), strict=True))
    return []


def masks_of(values):
    return {name: value for name, value in values.items() if name in MASKS}


def complex_all(arrays):
    """All as complex128 where one is: the functions take arrays of one dtype."""
    if not any(array.dtype.kind == "c" for array in arrays.values()):
        return arrays
    return {name: array.astype(complex) for name, array in arrays.items()}


@orders
@named
def test_gradients_are_derivatives(variant, order):
    values = random_problem(variant, seed=1)

    def outputs(**arrays):
        h, cache = forward(variant, complex_all(arrays) | masks_of(values), **order)
        return (h, cache.h_n, cache.c_n), cache

    def gradients(cotangents, cache):
        return backward(dict(zip(COTANGENTS, cotangents, strict=True)), cache)

    arguments = arguments_of(values)
    errors = check_gradients(outputs, gradients, arguments, method="complex", directions=2)
    assert set(errors) == set(arguments)


@pytest.mark.variants
@orders
@named
def test_no_block_is_zero_that_should_not_be(variant, order, engine):
    """Each gate has its gradients, and each kind of cotangent alone reaches what it should."""
    values = random_problem(variant, seed=2)
    _, cache = forward(variant, values, engine=engine, **order)
    for given_one in COTANGENTS:
        for name, gradient in backward({given_one: values[given_one]}, cache).items():
            assert np.any(gradient), f"{given_one} alone: gradient of {name}"
    gradients = backward(values, cache)
    unused = ["f"] if variant.coupled else []
    for name, gradient in gradients.items():
        assert np.all(np.isfinite(gradient)), name
        through_norm = variant.layer_norm and name in ("Wx", "Wh")  # by mean and variance
        for gate, block in gates_of(name, gradient):
            assert np.any(block) != (gate in unused and not through_norm), f"{name} of {gate}"


@pytest.mark.variants
@named
def test_backward_is_linear(variant, engine):
    """The gradients of a sum of cotangents are the sum of the gradients; None means zeros."""
    values = random_problem(variant, seed=3)
    _, cache = forward(variant, values, lengths=[3, 0, 5, 1], engine=engine)
    parts = [backward({name: values[name]}, cache) for name in COTANGENTS]
    whole = {f"d{name}": gradient for name, gradient in backward(values, cache).items()}
    compare(whole, {name: sum(part[name[1:]] for part in parts) for name in whole}, values["x"], steps=5)


functions = st.sampled_from([*KINDS, ("Affine", 0.7, 0.1), ("HardSigmoid", 0.3, 0.4), ("LeakyRelu", 0.2), ("Elu", 0.6)])
zoneouts = st.sampled_from([None, "mask", "rate"])
switch = st.booleans()
cells = st.builds(
    Variant, switch, switch, switch, switch, switch, st.sampled_from([None, 0.5, 2.0]),
    st.tuples(functions, functions, functions), switch, zoneouts, zoneouts,
)  # fmt: skip


@st.composite
def searches(draw):
    """A variant, sizes from the smallest up, a direction, perhaps lengths in any order."""
    variant, N, T = draw(cells), draw(st.integers(1, 3)), draw(st.integers(0, 4))
    sizes = {letter: draw(st.integers(1, 4)) for letter in "DHP"}
    lengths = draw(st.none() | st.lists(st.integers(0, T), min_size=N, max_size=N))
    values = random_problem(variant, N, T, **sizes, seed=draw(st.integers(0, 2**32 - 1)))
    return variant, values, {"lengths": lengths, "reverse": draw(switch)}


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(search=searches())
def test_any_combination(search):
    """Whatever the combination: outputs of the scalar oracle, and the derivative along one direction of everything."""
    variant, values, order = search
    h, cache = forward(variant, values, **order)
    results = {"h": h, "h_n": cache.h_n, "c_n": cache.c_n}
    expected = outputs_of(variant, values, **order)
    worst = max(1.0, *(np.max(np.abs(part), initial=0) for part in expected.values()))
    for name, result in results.items():
        assert np.max(np.abs(result - expected[name]), initial=0) <= DERIVATIVE_LIMITS["complex"] * worst, name

    gradients, rng = backward(values, cache), np.random.default_rng(0)
    arguments = arguments_of(values)
    assert set(gradients) == set(arguments)
    along = {name: rng.standard_normal(value.shape) for name, value in arguments.items()}
    moved = {name: value + 1e-100j * along[name] for name, value in arguments.items()}
    h, cache = forward(variant, moved | masks_of(values), **order)
    pairs = zip(COTANGENTS, (h, cache.h_n, cache.c_n), strict=True)
    terms = [values[name] * part.imag / 1e-100 for name, part in pairs]
    claims = [gradient * along[name] for name, gradient in gradients.items()]
    measured, claimed = (sum(np.sum(part) for part in parts) for parts in (terms, claims))
    size = sum(np.sum(np.abs(part)) for part in (*terms, *claims))
    assert abs(claimed - measured) <= DERIVATIVE_LIMITS["complex"] * size
