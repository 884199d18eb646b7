"""The parts of the programme for a GPU that compare and time, on NumPy and torch's CPU in the place of the device."""

from time import sleep

import numpy as np
import pytest

from benchmarks.gpu import comparing, contenders, correctness, timed, timing, verdict
from benchmarks.gpu.places import Host
from benchmarks.reference import WrongNumbers
from benchmarks.runner import statistics
from lstm_xp import engines, testing
from lstm_xp.engines import numpy_fused

HOST = Host()

# Comparing


@pytest.mark.parametrize("shape", [(3, 4, 5), (7,), (2, 0), ()])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_errors_are_those_of_the_table_of_tolerances(shape, dtype):
    rng = np.random.default_rng(1)
    expected = rng.standard_normal(shape)
    actual = np.asarray(expected + 1e-3 * rng.standard_normal(shape)).astype(dtype)
    own = comparing.relative_error(actual, expected, np)
    assert own == pytest.approx(testing.relative_error(actual, expected), rel=1e-12)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_counts_as_in_the_table(odd):
    expected = np.arange(1.0, 7).reshape(2, 3)
    one, both = expected.copy(), expected.copy()
    one[0, 1] = both[0, 1] = odd
    for actual, wanted in ((one, expected), (expected, one), (one, both), (-one, both), (0 * expected, 0 * expected)):
        with np.errstate(invalid="ignore"):
            found = comparing.relative_error(actual, wanted, np), testing.relative_error(actual, wanted)
        assert found[0] == found[1], (actual, wanted)


def test_huge_and_tiny_errors_neither_overflow_nor_vanish():
    for scale in (1e-300, 1e300):
        expected = scale * np.ones((2, 3))
        assert comparing.relative_error(expected * 1.5, expected, np) == pytest.approx(0.5)


def test_the_draw_has_no_zeros_and_is_the_same_at_every_call():
    a, b = (comparing.draw((3, 2, 5, 4)) for _ in range(2))
    for name in a:
        assert np.all(a[name] != 0)
        assert a[name].tobytes() == b[name].tobytes()
    assert len({value.ravel()[0] for value in a.values()}) == len(a)


# Correctness, on NumPy


UNIT = {"size": [3, 2, 1, 7], "engine": "numpy_fused", "kind": "float32"}


def test_right_engines_pass_on_numpy():
    found = correctness.run(UNIT, HOST)
    assert 0 < found[0]["share"] <= 1
    assert correctness.run(UNIT | {"kind": "tf32"}, HOST)[0]["refused"]
    proof = {"size": list(correctness.PROVED), "engine": "array_api", "kind": "reference"}
    assert 0 <= correctness.run(proof, HOST)[0]["share"] <= 1


PLANTED = ("h", "da", "dc0", "repeat", "later", "between", "unwritten", "argument", "raises", "inference", "dtype")


@pytest.mark.parametrize("planted", PLANTED)
def test_a_wrong_engine_is_caught(planted, monkeypatch):
    plant(planted, monkeypatch)
    record = correctness.run(UNIT, HOST)[0]
    assert {"h": "h is wrong", "da": "is wrong", "dc0": "dc0 is wrong", "repeat": "differ from run to run",
            "later": "h of a run were written to by a later one", "between": "differ from run to run",
            "unwritten": "inf times the limit", "argument": "wrote into its arguments Wh", "inference": "h is wrong",
            "dtype": "is float64, expected float32",
            "raises": "gave no result: MemoryError: no room"}[planted] in record["wrong"]  # fmt: skip
    result = {"records": [{"part": "correctness", **UNIT, **record}], "parts": {"correctness": {"out_of_time": []}}}
    assert verdict.exit_status(result) == 1
    assert verdict.wrong(result)[0].startswith("correctness numpy_fused float32 3,2,1,7: ")


def plant(planted, monkeypatch):
    """Make numpy_fused wrong in one way."""
    forward, backward, calls, returned = numpy_fused.forward, numpy_fused.backward, [], []

    def wrong_forward(a, h0, c0, Wh, *, keep):
        calls.append(keep)
        if planted == "raises":
            raise MemoryError("no room")
        h, c_n, *rest = forward(a, h0, c0, Wh, keep=keep)
        returned.append((h, *rest))
        if planted == "later" and len(calls) == 2:
            returned[0][0][0, 0, 0] = 0
        if planted == "between" and len(calls) == 3:
            returned[1][2][0, 0, 0] = 0
        if planted == "h" or (planted == "inference" and not keep):
            h[-1, 0, 0] *= 1 + 1e-5
        if planted == "repeat" and len(calls) == 2:
            h[0, 0, 0] = np.nextafter(h[0, 0, 0], 2)
        if planted == "unwritten":
            h[-1, -1, -1] = np.nan
        if planted == "argument":
            Wh[0, 0] = np.nextafter(Wh[0, 0], 2)
        if planted == "dtype":
            c_n = c_n.astype("float64")
        return h, c_n, *rest

    def wrong_backward(*arguments):
        da, dh0, dc0 = backward(*arguments)
        da[-1] *= 1 - 1e-5 * (planted == "da")
        return da, dh0, dc0 * np.float32(1 + 1e-5 * (planted == "dc0"))

    for own in ("layer", "gradients"):  # which would run in their place
        monkeypatch.delattr(numpy_fused, own)
    monkeypatch.setattr(numpy_fused, "forward", wrong_forward)
    monkeypatch.setattr(numpy_fused, "backward", wrong_backward)


def test_a_wrong_reference_is_caught(monkeypatch):
    reference = comparing.reference

    def wrong(arrays):
        return {name: value * (1 + 1e-13 * (name == "dWh")) for name, value in reference(arrays).items()}

    monkeypatch.setattr(comparing, "reference", wrong)
    unit = {"size": list(correctness.PROVED), "engine": "array_api", "kind": "reference"}
    assert "dWh of the float64 reference differs" in correctness.run(unit, HOST)[0]["wrong"]


def test_a_result_that_is_missing_or_misshapen_is_wrong():
    arrays = comparing.draw((2, 3, 4, 5))
    expected = comparing.reference(arrays)
    results = dict(expected)
    comparing.check(results, arrays, expected, "float64", 3, np)
    with pytest.raises(WrongNumbers, match="returned no dWx"):
        comparing.check({k: v for k, v in results.items() if k != "dWx"}, arrays, expected, "float64", 3, np)
    with pytest.raises(WrongNumbers, match="h has shape"):
        comparing.check(results | {"h": results["h"][:1]}, arrays, expected, "float64", 3, np)


def test_same_bits_are_bits():
    zeros = np.zeros((2, 3), np.float32)
    assert comparing.same_bits(zeros, zeros.copy(), np)
    assert not comparing.same_bits(zeros, -zeros, np)
    nan = np.full((2, 2), np.nan)
    assert comparing.same_bits(nan, nan.copy(), np)
    assert comparing.same_bits(np.ones((4, 3)).T, np.ones((3, 4)), np)
    assert comparing.same_bits(np.ones((2, 3), np.float16), np.ones((2, 3), np.float16), np)
    assert not comparing.same_bits(np.ones((2, 3)), np.ones((3, 2)), np)
    assert not comparing.same_bits(zeros, np.zeros((2, 3)), np)


# Times, on the CPU


def test_who_fails_leaves_the_rounds_and_the_others_go_on():
    turns = []

    def call(name, fails_at=None):
        def turn():
            turns.append(name)
            if turns.count(name) == fails_at:
                raise RuntimeError(f"{name} broke\nin two lines")

        return turn

    calls = {"a": call("a"), "b": call("b", fails_at=1), "c": call("c", fails_at=4)}
    taken, failures = timing.in_rounds(calls, HOST, 3, 0)
    assert failures == {"b": "RuntimeError: b broke in two lines", "c": "RuntimeError: c broke in two lines"}
    assert list(taken) == ["a"]
    assert [len(found) for found in taken["a"]] == [2, 2, 2]
    # Warm-ups; then two calls each, in an order that turns.
    assert turns[:3] == ["a", "b", "c"]
    assert turns[3:11] == ["a", "a", "c", "c", "c", "a", "a", "a"]


def test_who_is_slow_does_not_take_the_others_time(monkeypatch):
    monkeypatch.setattr(timing, "SLOW", 0.01)
    monkeypatch.setattr(timing, "HOPELESS", 0.05)
    calls = {"quick": lambda: None, "slow": lambda: sleep(0.02), "hopeless": lambda: sleep(0.06)}
    taken, failures = timing.in_rounds(calls, HOST, 3, 0)
    assert not failures
    assert {name: [len(found) for found in rounds] for name, rounds in taken.items()} == {
        "quick": [2, 2, 2], "slow": [1, 1, 1], "hopeless": [1],
    }  # fmt: skip
    assert statistics(taken["hopeless"])["median_s"] >= 0.06


def test_times_are_those_between_the_events():
    found = timing.times(lambda: sleep(0.02), HOST, 0, 3)
    assert len(found) == 3
    assert all(0.02 <= time < 1 for time in found)


RACE = {"size": [3, 6, 5, 70], "kind": "float32"}


def test_engines_race_torch_on_the_cpu():
    pytest.importorskip("torch")
    found = {(r["contender"], r["what"]): r for r in timed.ENGINES.run(RACE, HOST)}
    names = set(engines.candidates("numpy")) - {name for name, _ in found if "failed" in found[name, _]}
    assert {"numpy_fused", "array_api"} <= names
    for name in (*names & {n for n, _ in found}, "torch eager"):
        for what in timed.WHATS:
            record = found[name, what]
            assert record["us_per_step"] == pytest.approx(record["median_s"] / 6 * 1e6)
            assert 0 < record["share_of_limit"] <= 1, (name, what)
    assert found["torch graph", "training"]["failed"] == "RuntimeError: a CUDA graph needs a GPU"


def test_torch_is_raced_where_no_engine_runs():
    pytest.importorskip("torch")
    found = timed.ENGINES.run(RACE | {"kind": "tf32", "mode": "eager"}, HOST)
    assert [(record["contender"], record["what"]) for record in found] == [
        ("torch eager", what) for what in timed.WHATS
    ]


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "tf32"])
def test_torch_is_raced_in_every_kind(kind):
    pytest.importorskip("torch")
    if kind == "bfloat16":
        pytest.importorskip("ml_dtypes")
    found = timed.RIVALS.run(RACE | {"kind": kind, "mode": "eager"}, HOST)
    assert [(record["contender"], record["what"]) for record in found] == [
        ("torch eager", what) for what in timed.WHATS
    ]
    for record in found:
        assert record["median_s"] > 0
        assert 0 < record["share_of_limit"] < 10  # torch may round as it likes, but it is the same function


def test_a_wrong_engine_gets_no_time_and_the_others_do(monkeypatch):
    plant("unwritten", monkeypatch)
    found = {(r["contender"], r["what"]): r for r in timed.ENGINES.run(RACE, HOST)}
    assert "h is wrong: its error is inf" in found["numpy_fused", "inference"]["wrong"]
    assert "median_s" not in found["numpy_fused", "training"]
    assert "median_s" in found["array_api", "training"]


def test_torch_with_its_gates_in_another_order_would_be_seen(monkeypatch):
    pytest.importorskip("torch")
    from benchmarks.gpu import torch_lstm

    monkeypatch.setattr(torch_lstm.Torch, "_ours", lambda self, array: array)
    found = timed.RIVALS.run(RACE | {"mode": "eager"}, HOST)
    assert next(r for r in found if r["what"] == "training")["share_of_limit"] > 1e3


def test_only_the_reference_has_no_tf32():
    for name in engines.candidates("cupy"):
        reason = correctness.refusal(name, "tf32", (3, 4, 5, 6), Host())
        assert (reason == "it has IEEE products only") == (name == "array_api"), name


def test_recorded_calls_are_the_same_work():
    size = (3, 6, 5, 7)
    arrays = {name: np.asarray(value) for name, value in comparing.draw(size, "float64").items()}
    contender = contenders.Engine("array_api", arrays, "float64")
    for what in timed.WHATS:
        eager, again = (contender.work(what, mode)() for mode in ("eager", "recorded"))
        assert eager.keys() == again.keys()
        assert all(np.array_equal(eager[name], again[name]) for name in eager)
