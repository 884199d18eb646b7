"""`lstm_forward` and `lstm_backward`, on every library and engine."""

import numpy as np
import proofs
import pytest
from problems import (  # fmt: skip
    GOLDENS,
    GRADIENTS,
    ORDERS,
    OUTPUTS,
    backward,
    compare,
    forward,
    given,
    host,
    orders,
    random_problem,
    reference,
    run,
    same_bits,
)

import lstm_xp
from lstm_xp.testing import assert_close


@pytest.mark.parametrize("case", GOLDENS)
def test_goldens(lib, engine, case):
    if lib.name == "dask" and case != "reverse, lengths":
        pytest.skip("dask: one case; every order is compared with the loop of steps")
    proofs.goldens(lstm_xp, lib, engine, [case])


@orders
def test_is_a_loop_of_steps(lib, engine, order):
    proofs.steps_in_a_loop(lstm_xp, lib, engine, [order])


@pytest.mark.without("dask")
def test_nothing_is_modified(lib, engine):
    proofs.nothing_modified(lstm_xp, lib, engine)


@pytest.mark.without("jax", "dask")
def test_split_in_time(lib, engine):
    proofs.split_in_time(lstm_xp, lib, engine)


@pytest.mark.parametrize(
    "sizes", [(8, 1, 1, 1), (7, 3, 1, 2), (7, 4, 2, 1), (1, 3, 4, 6)], ids=["N,1,1,1", "D=1", "H=1", "N=1"]
)
def test_smallest_sizes(engine, library, sizes):
    lib, values = library("numpy"), random_problem(*sizes)
    arrays = given(lib, values)
    compare(run(arrays, engine=engine), reference(values), arrays["x"], steps=sizes[1])


@orders
@pytest.mark.parametrize("training", [True, False])
def test_no_rows(lib, engine, order, training):
    arrays = given(lib, random_problem(N=0))
    order = {**order, "training": training}
    if "lengths" in order:
        order = {**order, "lengths": []}
    for name, result in run(arrays, engine=engine, **order).items():
        argument = name[1:] if name in GRADIENTS else f"d{name}"
        assert_close(result, 0 * arrays[argument], name=name)


@pytest.mark.parametrize("order", [{}, {"reverse": True}, {"lengths": [0] * 4}, {"reverse": True, "lengths": [0] * 4}])
@pytest.mark.parametrize("training", [True, False])
def test_no_steps_hand_the_state_through(lib, engine, order, training):
    values = random_problem(T=0)
    arrays = given(lib, values)
    results = run(arrays, engine=engine, training=training, **order)
    assert_close(results["h"], arrays["dh"], name="h")
    assert_close(results["h_n"], arrays["h0"], name="h_n")
    assert_close(results["c_n"], arrays["c0"], name="c_n")
    if training:
        assert_close(results["dx"], arrays["x"], name="dx")
        assert_close(results["dh0"], arrays["dh_n"], name="dh0")
        assert_close(results["dc0"], arrays["dc_n"], name="dc0")
        for name in ("dWx", "dWh", "db"):
            assert_close(results[name], arrays[name[1:]] * 0, name=name)


@pytest.mark.without("dask")
@orders
def test_without_training_the_same_outputs(lib, engine, order):
    arrays = given(lib, random_problem())
    kept, not_kept = (run(arrays, engine=engine, training=training, **order) for training in (True, False))
    assert set(not_kept) == set(OUTPUTS)
    for name, result in not_kept.items():
        assert_close(result, kept[name], steps=5, name=name)


def test_none_is_zeros(lib, engine):
    values, zeros = random_problem(), ("h0", "c0", "b")
    results = run(given(lib, {name: value for name, value in values.items() if name not in zeros}), engine=engine)
    expected = reference({name: 0 * value if name in zeros else value for name, value in values.items()})
    compare(results, expected, lib.asarray(values["x"]), steps=5)


@pytest.mark.parametrize("absent", [("dh",), ("dh_n",), ("dc_n",), ("dh", "dc_n"), ("dh", "dh_n"), ("dh_n", "dc_n")])
@pytest.mark.parametrize("order", [ORDERS["forward"], ORDERS["reverse, lengths"]], ids=["forward", "reverse, lengths"])
def test_absent_cotangents_are_zeros(engine, library, absent, order):
    lib, values = library("numpy"), random_problem()
    arrays = given(lib, values)
    _, cache = forward(arrays, engine=engine, **order)
    gradients = backward({name: array for name, array in arrays.items() if name not in absent}, cache)
    zeros = {**values, **{name: 0 * values[name] for name in absent}}
    expected = reference(zeros, **order)
    compare(gradients, expected, arrays["x"], steps=5)


@pytest.mark.without("dask")
def test_dx_can_be_left_out(lib, engine):
    arrays = given(lib, random_problem())
    _, cache = forward(arrays, engine=engine)
    full, without = backward(arrays, cache), backward(arrays, cache, need_dx=False)
    assert without.pop("dx") is None
    full, without = host(full), host(without)
    for name, gradient in without.items():
        assert same_bits(gradient, full[name]), name


def test_gradients_are_five_and_dc0(library):
    arrays = given(library("numpy"), random_problem())
    _, cache = forward(arrays)
    gradients = lstm_xp.lstm_backward(arrays["dh"], cache)
    dx, dh0, dWx, dWh, db = gradients
    assert len(gradients) == 5
    for name, gradient in zip(gradients._fields, (dx, dh0, dWx, dWh, db), strict=True):
        assert getattr(gradients, name) is gradient
    assert gradients._fields == ("dx", "dh0", "dWx", "dWh", "db")
    assert gradients.dc0.shape == arrays["c0"].shape


@pytest.mark.parametrize("training", [True, False])
def test_final_state_is_a_copy(engine, library, training):
    arrays = given(library("numpy"), random_problem())
    h, cache = forward(arrays, engine=engine, training=training)
    for final in (cache.h_n, cache.c_n):
        assert not any(np.shares_memory(final, other) for other in (h, cache.c, *arrays.values()) if other is not None)
    empty = {**arrays, "x": arrays["x"][:, :0]}
    _, cache = forward(empty, engine=engine, training=training)
    assert not np.shares_memory(cache.h_n, arrays["h0"])
    assert not np.shares_memory(cache.c_n, arrays["c0"])


def test_outputs_of_backward_are_their_own(engine, library):
    arrays = given(library("numpy"), random_problem(T=0))
    _, cache = forward(arrays, engine=engine)
    gradients = backward(arrays, cache)
    assert not np.shares_memory(gradients["dh0"], arrays["dh_n"])
    assert not np.shares_memory(gradients["dc0"], arrays["dc_n"])
    arrays = given(library("numpy"), random_problem())
    _, cache = forward(arrays, engine=engine, lengths=[0, 0, 0, 0])
    gradients = backward(arrays, cache)
    assert not np.shares_memory(gradients["dh0"], arrays["dh_n"])
    assert not np.shares_memory(gradients["dc0"], arrays["dc_n"])


@pytest.mark.parametrize("training", [True, False])
def test_h_is_time_major_in_memory(engine, library, training):
    arrays = given(library("numpy"), random_problem())
    h, _ = forward(arrays, engine=engine, training=training)
    assert h[:, 2].flags.c_contiguous


@pytest.mark.without("dask")
@orders
def test_gates_of_the_cache_are_in_the_order_of_time(lib, engine, order):
    values = random_problem()
    _, cache = forward(given(lib, values), engine=engine, **order)
    steps = [values["x"].shape[1]] * 4 if "lengths" not in order else order["lengths"]
    expected = {gate: np.zeros((4, 5, 2)) for gate in "ifog"}
    for n, length in enumerate(steps):
        row = slice(n, n + 1)
        h, c = values["h0"][row], values["c0"][row]
        for t in reversed(range(length)) if order.get("reverse") else range(length):
            h, c, step = lstm_xp.lstm_step_forward(values["x"][row, t], h, c, values["Wx"], values["Wh"], values["b"])
            for gate in "ifog":
                expected[gate][row, t] = getattr(step, gate)
    like = lib.asarray(values["x"])
    for gate in "ifog":
        assert_close(getattr(cache, gate), expected[gate], like=like, steps=5, name=gate)
