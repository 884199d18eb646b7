"""What is proved of an implementation, as functions that raise AssertionError.

Each takes the package that holds the four functions, a library and the name of an engine, so that the same checks run
on lstm_xp itself, on every library and engine, and on copies with planted bugs (test_mutation.py).
"""

import sys

import numpy as np
from problems import (  # fmt: skip
    ARGUMENTS,
    COTANGENTS,
    GOLDENS,
    GRADIENTS,
    ORDERS,
    OUTPUTS,
    backward,
    compare,
    forward,
    given,
    host,
    random_problem,
    reference,
    run,
    same_bits,
)
from variant_problems import COTANGENTS as VARIANT_COTANGENTS
from variant_problems import MANY, MASKS, outputs_of
from variant_problems import backward as backward_variant
from variant_problems import compare as compare_variants
from variant_problems import forward as forward_variant
from variant_problems import random_problem as random_variant

from lstm_xp.testing import check_gradients

ALL = tuple(ORDERS.values())


def goldens(package, lib, engine, cases=tuple(GOLDENS)):
    """Outputs and all gradients are those of a scalar LSTM at 50 digits."""
    for case in cases:
        golden = GOLDENS[case]
        arrays = given(lib, {name: np.array(golden[name]) for name in (*ARGUMENTS, *COTANGENTS)})
        results = run(arrays, package, lengths=golden["lengths"], reverse=golden["reverse"], engine=engine)
        compare(results, golden, arrays["x"], steps=arrays["x"].shape[1])


def steps_in_a_loop(package, lib, engine, orders=ALL):
    """A sequence is a loop over time steps, row by row."""
    values = random_problem()
    arrays = given(lib, values)
    for order in orders:
        expected = reference(values, **order)
        assert all(np.any(expected[name]) for name in (*OUTPUTS, *GRADIENTS))
        compare(run(arrays, package, engine=engine, **order), expected, arrays["x"], steps=arrays["x"].shape[1])


def derivatives(package, lib, engine, orders=ALL, directions=1):
    """The gradients are the derivatives of the outputs: by complex steps where the engine takes them."""
    values = random_problem(seed=1)
    arguments = given(lib, {name: values[name] for name in ARGUMENTS})
    method = "complex" if lib.name == "numpy" and engine == "array_api" else "difference"

    for order in orders:

        def outputs(order=order, **arrays):
            h, cache = forward(of_one_dtype(arrays), package, engine=engine, **order)
            return (h, cache.h_n, cache.c_n), cache

        def gradients(cotangents, cache):
            found = backward(dict(zip(COTANGENTS, cotangents, strict=True)), cache, package)
            return {name[1:]: gradient for name, gradient in found.items()}

        check_gradients(outputs, gradients, arguments, method=method, directions=directions)


def step_derivatives(package, lib, directions=2):
    """The gradients of a time step are its derivatives."""
    values = random_problem(seed=2)
    values["x"] = values["x"][:, 0]
    names = dict(zip(("prev_h", "prev_c"), ("h0", "c0"), strict=True))
    arguments = {name: lib.asarray(values[names.get(name, name)]) for name in ("x", *names, "Wx", "Wh", "b")}

    def outputs(**arrays):
        h, c, cache = package.lstm_step_forward(**of_one_dtype(arrays))
        return (h, c), cache

    def gradients(cotangents, cache):
        found = package.lstm_step_backward(*cotangents, cache)
        return {name[1:]: gradient for name, gradient in found._asdict().items()}

    method = "complex" if lib.name == "numpy" else "difference"
    return check_gradients(outputs, gradients, arguments, method=method, directions=directions)


def nothing_modified(package, lib, engine, orders=ALL):
    """No argument, output or cache is written to, by this call or by later ones; a second backward is the first."""
    values = random_problem(seed=3)
    others = given(lib, random_problem(seed=4))
    for order in orders:
        arrays = given(lib, values)
        h, cache = forward(arrays, package, engine=engine, **order)
        _assert_same(host(arrays), values, "was modified by the forward call")
        held = {**arrays, "h": h, "h_n": cache.h_n, "c_n": cache.c_n, "c": cache.c, "gates": cache.gates}
        before = host(held)
        first = backward(arrays, cache, package)
        bits = host(first)
        run(others, package, engine=engine, **order)
        second = backward(arrays, cache, package)
        _assert_same(host(held), before, "was modified")
        _assert_same(host(first), bits, "was modified by a later call")
        _assert_same(host(second), bits, "differs when backward runs again")


def padding_unseen(package, lib, engine):
    """What lies behind the lengths changes nothing, be it NaN; h and dx are zero there."""
    lengths = [3, 0, 5, 1]
    values = random_problem(seed=5)
    behind = np.arange(5)[None, :] >= np.array(lengths)[:, None]
    for reverse in (False, True):
        found = []
        for junk in (0.0, np.nan, np.inf):
            filled = {**values, "x": values["x"].copy(), "dh": values["dh"].copy()}
            filled["x"][behind], filled["dh"][behind] = junk, junk
            found.append(host(run(given(lib, filled), package, engine=engine, lengths=lengths, reverse=reverse)))
        _assert_same(found[1], found[0], "sees NaN behind the lengths")
        _assert_same(found[2], found[0], "sees inf behind the lengths")
        for name in ("h", "dx"):
            assert not np.any(found[0][name][behind]), f"{name} is not zero behind the lengths"


def empty_rows(package, lib, engine):
    """A row of length 0 hands its states through, and their gradients back, whatever they hold."""
    values = random_problem(seed=6)
    lengths, empty = [3, 0, 5, 1], 1
    clean = host(run(given(lib, values), package, engine=engine, lengths=lengths))
    for name in ("h0", "c0", "dh_n", "dc_n"):
        values[name][empty] = [np.nan, -np.inf]
    for reverse in (False, True):
        results = host(run(given(lib, values), package, engine=engine, lengths=lengths, reverse=reverse))
        for result, argument in (("h_n", "h0"), ("c_n", "c0"), ("dh0", "dh_n"), ("dc0", "dc_n")):
            assert same_bits(results[result][empty], values[argument][empty]), f"{result} of an empty row: {results}"
        for name in ("h", "dx", "dWx", "dWh", "db"):
            assert np.all(np.isfinite(results[name])), f"{name} sees the states of an empty row"
        if not reverse:
            _assert_same({name: results[name] for name in ("h", "dx", "dWx", "dWh", "db")}, clean, "sees an empty row")


def not_a_number_stays(package, lib, engine):
    """A NaN in one row's input or state comes out of that row from there on, and of no other row."""
    values = random_problem(seed=7)
    row, t = 2, 1
    for name in ("x", "h0", "c0"):
        spoiled = {**values, name: values[name].copy()}
        spoiled[name][(row, t) if name == "x" else row] = np.nan
        start = t if name == "x" else 0
        results = host(run(given(lib, spoiled), package, engine=engine))
        clean = host(run(given(lib, values), package, engine=engine))
        for result in OUTPUTS:
            missing = np.isnan(results[result])
            expected = np.zeros_like(missing)
            expected[(row, slice(start, None)) if result == "h" else row] = True
            assert np.array_equal(missing, expected), f"NaN in {name}: wrong places in {result}"
        for result in ("dx", "dh0", "dc0"):
            others = [n for n in range(len(values["x"])) if n != row]
            assert np.all(np.isnan(results[result][row])), f"NaN in {name}: {result} of its row is a number"
            assert same_bits(results[result][others], clean[result][others]), f"NaN in {name}: {result} of other rows"
        for result in ("dWx", "dWh", "db"):
            assert np.all(np.isnan(results[result])), f"NaN in {name}: {result} is a number"


def split_in_time(package, lib, engine, cut=2):
    """Two halves of a sequence, the state handed on and its gradient handed back, are the whole."""
    values = random_problem(seed=8)
    arrays = given(lib, values)
    steps = values["x"].shape[1]
    for reverse in (False, True):
        options = {"engine": engine, "reverse": reverse}
        halves = [dict(arrays), dict(arrays)]
        for half, part in zip(halves, (slice(None, cut), slice(cut, None)), strict=True):
            for name in ("x", "dh"):
                half[name] = lib.asarray(values[name][:, part])
        first, second = halves[::-1] if reverse else halves
        _, cache1 = forward(first, package, **options)
        second |= {"h0": cache1.h_n, "c0": cache1.c_n}
        results2 = run(second, package, **options)
        first |= {"dh_n": results2["dh0"], "dc_n": results2["dc0"]}
        results1 = run(first, package, **options)
        results = {name: results2[name] for name in ("h_n", "c_n")} | {name: results1[name] for name in ("dh0", "dc0")}
        results |= {name: results1[name] + results2[name] for name in ("dWx", "dWh", "db")}
        parts = (results2, results1) if reverse else (results1, results2)
        results |= {name: lib.xp.concat([part[name] for part in parts], axis=1) for name in ("h", "dx")}
        compare(results, reference(values, reverse=reverse), arrays["x"], steps)


def chunks_are_seamless(package, lib, engine):
    """Without training, in chunks of one step and of three: the same outputs."""
    values = random_problem(seed=11)
    arrays = given(lib, values)
    stages = sys.modules[f"{package.__name__}.stages"]
    whole = stages.CHUNK
    for order in ORDERS.values():
        expected = reference(values, **order)
        for steps in (1, 3):
            stages.CHUNK = steps * values["h0"].size * 4
            try:
                results = run(arrays, package, engine=engine, training=False, **order)
            finally:
                stages.CHUNK = whole
            assert set(results) == set(OUTPUTS)
            compare(results, expected, arrays["x"], steps=values["x"].shape[1])


def variant_outputs(package, lib, engine, orders=ALL):
    """Cell variants: outputs and final states are those of a scalar LSTM, from the papers."""
    module = _variants_of(package, engine)
    for variant in MANY.values() if module else ():
        values = random_variant(variant)
        for order in orders:
            h, cache = forward_variant(variant, values, module, engine=engine, **order)
            results = {"h": h, "h_n": cache.h_n, "c_n": cache.c_n}
            compare_variants(results, outputs_of(variant, values, **order), values["x"], steps=5)


def variant_derivatives(package, lib, engine, orders=ALL):
    """Cell variants: the gradients are derivatives; where these are differences, of what has no kinks."""
    module, method = _variants_of(package, engine), "complex" if engine == "array_api" else "difference"
    for name in ("all", "all, coupled", "all but layer norm, rates") if module else ():
        variant = MANY[name]
        if method == "difference":
            variant = variant._replace(clip=None, activations=("Sigmoid", ("ScaledTanh", 1.3, 0.7), "Tanh"))
        values = random_variant(variant, D=7, H=24, P=11, seed=1)
        masks = {key: value for key, value in values.items() if key in MASKS}
        arguments = {key: value for key, value in values.items() if key not in (*VARIANT_COTANGENTS, *MASKS)}
        for order in orders:

            def outputs(variant=variant, masks=masks, order=order, **arrays):
                arrays = of_one_dtype(arrays) | masks
                h, cache = forward_variant(variant, arrays, module, engine=engine, **order)
                return (h, cache.h_n, cache.c_n), cache

            def gradients(cotangents, cache):
                return backward_variant(dict(zip(VARIANT_COTANGENTS, cotangents, strict=True)), cache, module)

            check_gradients(outputs, gradients, arguments, method=method, directions=1)


def _variants_of(package, engine):
    """The package's `variants`, if the engine computes any."""
    modules = (sys.modules[f"{package.__name__}.{name}"] for name in ("variants", f"engines.{engine}"))
    module, engine = modules
    return module if hasattr(engine, "lacks") else None


def of_one_dtype(arrays):
    """All as complex128, if one of them is: the functions take arrays of one dtype."""
    if not any(isinstance(array, np.ndarray) and array.dtype.kind == "c" for array in arrays.values()):
        return arrays
    return {name: array.astype(complex) for name, array in arrays.items()}


def _assert_same(found, expected, what):
    for name, value in found.items():
        assert same_bits(value, expected[name]), f"{name} {what}"
