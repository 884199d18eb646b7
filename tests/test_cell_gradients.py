"""The gradients of a time step are its derivatives."""

import numpy as np
import proofs
import pytest
from problems import random_problem, same_bits

import lstm_xp
from lstm_xp.testing import DERIVATIVE_LIMITS

ORDER = ("x", "h0", "c0", "Wx", "Wh", "b")


def test_derivatives(lib):
    errors = proofs.step_derivatives(lstm_xp, lib, directions=1 if lib.name == "dask" else 4)
    assert set(errors) == {"x", "prev_h", "prev_c", "Wx", "Wh", "b"}


def test_complex_steps_are_exact(library):
    errors = proofs.step_derivatives(lstm_xp, library("numpy"), directions=20)
    assert max(errors.values()) < DERIVATIVE_LIMITS["complex"] < DERIVATIVE_LIMITS["difference"]


@pytest.mark.parametrize("cotangent", ["dnext_h", "dnext_c"])
def test_each_cotangent_reaches_every_gradient(cotangent):
    values = random_problem()
    _, _, cache = lstm_xp.lstm_step_forward(values["x"][:, 0], *(values[name] for name in ORDER[1:]))
    given = (values["dh_n"], None) if cotangent == "dnext_h" else (None, values["dc_n"])
    for gradient in lstm_xp.lstm_step_backward(*given, cache):
        assert np.any(gradient)


def test_nothing_is_modified():
    values = random_problem()
    arguments = [values["x"][:, 0], *(values[name] for name in ORDER[1:])]
    _, _, cache = lstm_xp.lstm_step_forward(*arguments)
    held = [*cache, values["dh_n"], values["dc_n"]]
    before = [array.copy() for array in held]
    first = lstm_xp.lstm_step_backward(values["dh_n"], values["dc_n"], cache)
    second = lstm_xp.lstm_step_backward(values["dh_n"], values["dc_n"], cache)
    assert all(map(same_bits, held, before))
    assert all(map(same_bits, first, second))
