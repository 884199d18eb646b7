"""Properties that hold of every LSTM, searched for counterexamples by hypothesis: all on NumPy, every engine."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from problems import GRADIENTS, OUTPUTS, backward, compare, forward, random_problem, reference, run, same_bits

from lstm_xp.testing import assert_close, limit

SIZE, STEPS = st.integers(1, 6), st.integers(0, 6)
searched = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the name of an engine: nothing to set up anew
)


@st.composite
def problems(draw, rows=SIZE, steps=STEPS):
    """Sizes from the smallest up (T = 0, N = 1, H = 1, D = 1 among them), a direction, perhaps lengths in any order."""
    N, T, D, H = draw(rows), draw(steps), draw(SIZE), draw(SIZE)
    lengths = draw(st.none() | st.lists(st.integers(0, T), min_size=N, max_size=N))
    values = random_problem(N, T, D, H, seed=draw(st.integers(0, 2**32 - 1)))
    return values, {"lengths": lengths, "reverse": draw(st.booleans())}


def close(results, expected, values):
    """Equal, but for rounding: each array against the size of what it was summed from."""
    for name, result in results.items():
        kind = "gradient" if name in GRADIENTS else "forward"
        scale = max(1.0, np.max(np.abs(expected[name]), initial=0))
        steps = max(1, values["x"].shape[0]) * max(1, values["x"].shape[1])
        error = np.max(np.abs(result - expected[name]), initial=0)
        assert error <= limit("float64", kind, steps) * scale * weight(values), name


def weight(values):
    """How much larger than one the terms of a gradient may be: the sizes of the weights and cotangents."""
    return max(1.0, *(np.max(np.abs(value), initial=0) for value in values.values())) ** 2


@searched
@given(problem=problems())
def test_is_a_loop_of_steps(engine, problem):
    values, order = problem
    close(run(values, engine=engine, **order), reference(values, **order), values)


@searched
@given(problem=problems(steps=SIZE), cut=st.integers(0, 6))
def test_split_in_time_is_the_whole(engine, problem, cut):
    values, order = problem
    order["lengths"], T = None, values["x"].shape[1]
    cut = min(cut, T)
    parts = [{**values, "x": values["x"][:, k], "dh": values["dh"][:, k]} for k in (slice(cut), slice(cut, None))]
    first, second = parts[::-1] if order["reverse"] else parts
    _, cache = forward(first, engine=engine, **order)
    second |= {"h0": cache.h_n, "c0": cache.c_n}
    after = run(second, engine=engine, **order)
    first |= {"dh_n": after["dh0"], "dc_n": after["dc0"]}
    before = run(first, engine=engine, **order)
    results = {name: after[name] for name in ("h_n", "c_n")} | {name: before[name] for name in ("dh0", "dc0")}
    results |= {name: before[name] + after[name] for name in ("dWx", "dWh", "db")}
    halves = (after, before) if order["reverse"] else (before, after)
    results |= {name: np.concatenate([half[name] for half in halves], axis=1) for name in ("h", "dx")}
    close(results, run(values, engine=engine, **order), values)


@searched
@given(problem=problems(), data=st.data())
def test_permuting_the_batch_permutes_the_results(engine, problem, data):
    values, order = problem
    rows = data.draw(st.permutations(range(values["x"].shape[0])))
    permuted = {name: value if name in ("Wx", "Wh", "b") else value[rows] for name, value in values.items()}
    lengths = order["lengths"]
    results = run(permuted, engine=engine, reverse=order["reverse"], lengths=lengths and [lengths[n] for n in rows])
    expected = run(values, engine=engine, **order)
    expected = {name: v if name in ("dWx", "dWh", "db") else v[rows] for name, v in expected.items()}
    close(results, expected, values)


@searched
@given(problem=problems(), scale=st.floats(-10, 10), seed=st.integers(0, 99))
def test_backward_is_linear_in_its_cotangents(engine, problem, scale, seed):
    values, order = problem
    N, T, D = values["x"].shape
    others = random_problem(N, T, D, values["h0"].shape[1], seed=seed)
    _, cache = forward(values, engine=engine, **order)
    combined = {name: values[name] + scale * others[name] for name in ("dh", "dh_n", "dc_n")}
    one, other, both = (backward(v, cache) for v in (values, others, combined))
    expected = {name: one[name] + scale * other[name] for name in GRADIENTS}
    close(both, expected, {**values, **others, "scale": np.array(scale)})


@searched
@given(problem=problems())
def test_reverse_is_forward_between_flips(engine, problem):
    values, _ = problem
    flipped = {**values, **{name: values[name][:, ::-1] for name in ("x", "dh")}}
    expected = run(flipped, engine=engine)
    expected |= {name: expected[name][:, ::-1] for name in ("h", "dx")}
    close(run(values, engine=engine, reverse=True), expected, values)


@searched
@given(problem=problems(steps=SIZE), junk=st.sampled_from([np.nan, np.inf, -np.inf, 1e300]), data=st.data())
def test_what_lies_behind_the_lengths_changes_nothing(engine, problem, junk, data):
    values, order = problem
    N, T, _ = values["x"].shape
    lengths = data.draw(st.lists(st.integers(0, T), min_size=N, max_size=N))
    behind = np.arange(T)[None, :] >= np.array(lengths)[:, None]
    filled = {**values, "x": values["x"].copy(), "dh": values["dh"].copy()}
    filled["x"][behind], filled["dh"][behind] = junk, junk
    expected = run(values, engine=engine, lengths=lengths, reverse=order["reverse"])
    for name, result in run(filled, engine=engine, lengths=lengths, reverse=order["reverse"]).items():
        assert same_bits(result, expected[name]), name
    assert not np.any(expected["h"][behind])
    assert not np.any(expected["dx"][behind])


@searched
@given(problem=problems(steps=SIZE), size=st.sampled_from([1.0, 1e3, 1e6]))
def test_states_are_bounded(engine, problem, size):
    """|h| <= 1 and |c| grows by at most 1 per step."""
    values, order = problem
    values["x"] *= size
    h, cache = forward(values, engine=engine, **order)
    T = values["x"].shape[1]
    assert np.all(np.abs(h) <= 1)
    assert np.all(np.abs(cache.c_n) <= (np.abs(values["c0"]) + T) * (1 + limit("float64", steps=T)))


@searched
@given(problem=problems(rows=st.integers(1, 4), steps=SIZE), chunk=st.integers(1, 400))
def test_without_training_the_same_bits(engine, problem, chunk):
    values, order = problem
    whole = run(values, engine=engine, training=False, **order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lstm_xp.stages.CHUNK", chunk)
        for name, result in run(values, engine=engine, training=False, **order).items():
            assert_close(result, whole[name], steps=values["x"].shape[1], name=name)
    assert set(whole) == set(OUTPUTS)


def test_a_bad_result_is_caught():
    """The comparison that the properties use can fail."""
    values = random_problem()
    expected = reference(values)
    wrong = {name: value * (1 + 1e-10) for name, value in expected.items()}
    with pytest.raises(AssertionError):
        close(wrong, expected, values)
    with pytest.raises(AssertionError):
        compare(wrong, expected, values["x"], steps=5)
