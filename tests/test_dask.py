"""Dask: nothing is computed in a call, and chunks of the batch give what one chunk gives."""

import numpy as np
import pytest
from problems import ORDERS, backward, compare, forward, given, orders, random_problem, reference, settled

from lstm_xp import explain, lstm_step_backward, lstm_step_forward


@pytest.fixture
def dask_lib(library):
    return library("dask")


@pytest.fixture
def lazy(dask_lib):
    """A context in which computing raises."""
    import dask

    def computed(*arguments, **options):
        raise AssertionError("something was computed")

    return lambda: dask.config.set(scheduler=computed)


@orders
def test_a_sequence_computes_nothing_by_itself(dask_lib, lazy, order):
    values = random_problem()
    arrays = given(dask_lib, values)
    with lazy():
        h, cache = forward(arrays, **order)
        gradients = backward(arrays, cache)
        light, _ = forward(arrays, training=False, **order)
        assert cache.f.shape == h.shape
        assert cache.nbytes > 0
        assert explain(*(arrays[name] for name in ("x", "h0", "Wx", "Wh", "b"))) == "array_api: runs"
        with pytest.raises(AssertionError, match="something was computed"):
            h.compute()
    results = settled({"h": h, "h_n": cache.h_n, "c_n": cache.c_n, **gradients})
    compare(results, reference(values, **order), arrays["x"], steps=5)
    compare({"h": light}, reference(values, **order), arrays["x"], steps=5)


def test_a_step_computes_nothing_by_itself(dask_lib, lazy):
    arrays = given(dask_lib, random_problem())
    with lazy():
        h, c, cache = lstm_step_forward(arrays["x"][:, 0], *(arrays[name] for name in ("h0", "c0", "Wx", "Wh", "b")))
        gradients = lstm_step_backward(h, c, cache)
    assert all(np.all(np.isfinite(gradient.compute())) for gradient in gradients)


def test_chunks_of_the_batch(dask_lib):
    values = random_problem()
    arrays = given(dask_lib, values)
    whole = dict(arrays)
    for name in ("x", "h0", "c0", "dh", "dh_n", "dc_n"):
        arrays[name] = arrays[name].rechunk({0: 2})
    h, cache = forward(arrays)
    results = settled({"h": h, "h_n": cache.h_n, "c_n": cache.c_n, **backward(arrays, cache)})
    compare(results, reference(values), whole["x"], steps=5)


def test_lengths_on_the_host(dask_lib):
    values, order = random_problem(), ORDERS["lengths"]
    arrays = given(dask_lib, values)
    h, _ = forward(arrays, lengths=np.array(order["lengths"]))
    compare(settled({"h": h}), reference(values, **order), arrays["x"], steps=5)
