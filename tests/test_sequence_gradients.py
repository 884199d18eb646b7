"""The gradients of a sequence are the derivatives of its outputs, and proved to be by more than one witness."""

import numpy as np
import proofs
import pytest
from problems import backward, forward, given, orders, random_problem

import lstm_xp
from lstm_xp.testing import assert_close, check_gradients


@orders
def test_derivatives(lib, engine, order):
    if lib.name == "dask":
        pytest.skip("dask: hundreds of small graphs; compared with the loop of steps instead")
    proofs.derivatives(lstm_xp, lib, engine, [order])


def test_derivatives_on_dask(library):
    """One argument at a time costs a graph per step of a difference: the weights stand for all."""
    values = random_problem(T=2)
    arrays = given(library("dask"), values)

    def outputs(**weights):
        h, cache = forward({**arrays, **weights})
        return (h,), cache

    def gradients(cotangents, cache):
        found = backward({"dh": cotangents[0]}, cache)
        return {name: found[f"d{name}"] for name in ("Wx", "Wh")}

    check_gradients(outputs, gradients, {name: arrays[name] for name in ("Wx", "Wh")}, directions=1)


@orders
def test_derivatives_of_a_longer_sequence(engine, library, order):
    lib, values = library("numpy"), random_problem(N=3, T=40, D=5, H=7)
    if "lengths" in order:
        order = {**order, "lengths": [40, 0, 17]}
    arguments = given(lib, {name: values[name] for name in ("x", "h0", "Wx", "Wh", "b", "c0")})

    def outputs(**arrays):
        h, cache = forward(arrays, engine=engine, **order)
        return (h, cache.h_n, cache.c_n), cache

    def gradients(cotangents, cache):
        found = backward(dict(zip(("dh", "dh_n", "dc_n"), cotangents, strict=True)), cache)
        return {name[1:]: gradient for name, gradient in found.items()}

    check_gradients(outputs, gradients, arguments)


@orders
def test_backward_is_the_adjoint(engine, order):
    """<u, J v> = <J^T u, v> where J v is a derivative by complex steps through all arguments at once."""
    values = random_problem(seed=3)
    rng = np.random.default_rng(4)
    names = ("x", "h0", "Wx", "Wh", "b", "c0")
    moved = {name: values[name] + 1e-100j * rng.standard_normal(values[name].shape) for name in names}
    h, cache = forward(moved, engine="array_api", **order)
    outputs = {"h": h, "h_n": cache.h_n, "c_n": cache.c_n}
    left = sum(np.sum(values[f"d{name}"] * output.imag) for name, output in outputs.items())
    _, cache = forward(values, engine=engine, **order)
    gradients = backward(values, cache)
    terms = np.concatenate([np.ravel(gradients[f"d{name}"] * moved[name].imag) for name in names])
    # A sum is as exact as its terms are large, however much of them cancels: their norm stands beside it.
    size = np.linalg.norm(terms)
    assert_close(np.array([np.sum(terms), size]), np.array([left, size]), kind="gradient", steps=5)
