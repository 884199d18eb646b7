"""Sequences of different lengths in one padded batch."""

import numpy as np
import proofs
import pytest
from problems import ORDERS, compare, forward, given, host, random_problem, reference, run, same_bits

import lstm_xp


def test_what_lies_behind_is_never_seen(lib, engine):
    proofs.padding_unseen(lstm_xp, lib, engine)


def test_empty_rows_hand_their_states_through(lib, engine):
    proofs.empty_rows(lstm_xp, lib, engine)


@pytest.mark.parametrize(
    "lengths",
    [[0, 0, 0, 0], [5, 5, 5, 5], [1, 1, 1, 1], [5, 4, 3, 2], [0, 5, 0, 5], [4, 4, 4, 4]],
    ids=str,
)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_any_lengths(engine, library, lengths, reverse):
    values = random_problem()
    arrays = given(library("numpy"), values)
    results = run(arrays, engine=engine, lengths=lengths, reverse=reverse)
    compare(results, reference(values, lengths, reverse), arrays["x"], steps=5)


@pytest.mark.without("dask")
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_full_lengths_are_no_lengths(lib, engine, reverse):
    arrays = given(lib, random_problem())
    without = host(run(arrays, engine=engine, reverse=reverse))
    full = host(run(arrays, engine=engine, reverse=reverse, lengths=[5] * 4))
    for name, result in without.items():
        assert same_bits(full[name], result), name


KINDS = {
    "tuple": tuple,
    "int8": lambda lengths: np.array(lengths, np.int8),
    "uint64": lambda lengths: np.array(lengths, np.uint64),
    "strided": lambda lengths: np.repeat(lengths, 2)[::2],
    "NumPy integers": lambda lengths: list(map(np.int32, lengths)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_host_integers(engine, library, kind):
    arrays = given(library("numpy"), random_problem())
    order = ORDERS["reverse, lengths"]
    expected = run(arrays, engine=engine, **order)
    results = run(arrays, engine=engine, lengths=KINDS[kind](order["lengths"]), reverse=True)
    for name, result in results.items():
        assert same_bits(result, expected[name]), name


@pytest.mark.without("numpy", "numpy-readonly", "dask")
@pytest.mark.parametrize("dtype", ["int64", "int32"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_lengths_of_the_library_are_clamped(lib, engine, reverse, dtype):
    values = random_problem()
    arrays = given(lib, values)
    lengths = lib.asarray(np.array([3, -2, 99, 1]), dtype)
    results = run(arrays, engine=engine, lengths=lengths, reverse=reverse)
    compare(results, reference(values, [3, 0, 5, 1], reverse), arrays["x"], steps=5)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_lengths_of_the_library_may_be_narrow_integers(library, dtype):
    """Places in a batch are counted beyond what such integers hold: 40 rows of 5 steps, 2 rows of 300."""
    lib = library("torch")
    for lengths, T in (([5, 0, 3, 4] * 10, 5), ([120, 0], 300)):
        values = random_problem(N=len(lengths), T=T)
        arrays = given(lib, values)
        results = run(arrays, lengths=lib.asarray(np.array(lengths), dtype), reverse=True)
        compare(results, reference(values, lengths, True), arrays["x"], steps=T)


def test_lengths_given_are_not_kept_by_reference(engine, library):
    """The cache is not changed when the caller reuses his array of lengths."""
    arrays = given(library("numpy"), random_problem())
    expected = run(arrays, engine=engine, **ORDERS["lengths"])
    lengths = np.array(ORDERS["lengths"]["lengths"])
    _, cache = forward(arrays, engine=engine, lengths=lengths)
    lengths[:] = 0
    gradients = lstm_xp.lstm_backward(arrays["dh"], cache, dh_n=arrays["dh_n"], dc_n=arrays["dc_n"])
    for name, gradient in gradients._asdict().items():
        assert same_bits(gradient, expected[name]), name


def test_uninitialised_junk_behind_the_lengths_without_training(lib, engine):
    values, junk = random_problem(), random_problem()
    lengths = [3, 0, 5, 1]
    junk["x"][np.arange(5)[None, :] >= np.array(lengths)[:, None]] = np.nan
    for reverse in (False, True):
        options = {"engine": engine, "lengths": lengths, "reverse": reverse, "training": False}
        clean, spoiled = (host(run(given(lib, v), **options)) for v in (values, junk))
        for name, result in clean.items():
            assert same_bits(spoiled[name], result), name
