"""`explain` says which engine runs, and why each one before it does not; and that is what runs."""

import types

import numpy as np
import pytest
from problems import ORDERS, backward, engine_names, forward, given, random_problem, refusal

import lstm_xp
from lstm_xp import EngineError, engines, explain
from lstm_xp.engines import array_api
from lstm_xp.libraries import open_library

NAMES = ("x", "h0", "Wx", "Wh", "b")


def arguments(arrays):
    return [arrays[name] for name in NAMES]


def test_auto(lib):
    arrays = given(lib, random_problem())
    _, cache = forward(arrays)
    lines = explain(*arguments(arrays), c0=arrays["c0"]).splitlines()
    names = engine_names(lib.name)
    assert lines[0] == f"{cache.engine}: runs"
    before = names[: names.index(cache.engine)]
    assert [line.partition(":")[0] for line in lines[1:]] == list(before)
    for name, line in zip(before, lines[1:], strict=True):
        verb = "refuses, " if refusal(name, lib) else "declines, "
        assert line.startswith(f"{name}: {verb}")


def test_the_first_of_the_table_that_runs_is_taken(lib):
    arrays = given(lib, random_problem())
    willing = [name for name in engine_names(lib.name) if not refusal(name, lib)]
    _, cache = forward(arrays)
    assert cache.engine in willing


def test_a_refusal_is_explained():
    values = random_problem()
    arrays = {name: value.astype(complex) for name, value in values.items()}
    lines = explain(*arguments(arrays)).splitlines()
    assert lines[0] == "array_api: runs"
    assert "numpy_fused: refuses, it needs real arrays" in lines


def test_an_engine_that_declines(monkeypatch):
    """It is not chosen by itself, but runs when it is named."""
    values = random_problem()
    _, cache = forward(values)
    first = cache.engine
    monkeypatch.setattr(f"lstm_xp.engines.{first}.declines", lambda problem: f"N = {problem.N} is too few")
    assert f"{first}: declines, N = 4 is too few" in explain(*arguments(values)).splitlines()
    _, cache = forward(values)
    assert cache.engine != first
    _, cache = forward(values, engine=first)
    assert cache.engine == first


def test_a_named_engine():
    values = random_problem()
    assert explain(*arguments(values), engine="array_api") == "array_api: runs, as asked for"


def test_a_named_engine_that_refuses_raises_here_too():
    arrays = {name: value.astype(complex) for name, value in random_problem().items()}
    with pytest.raises(EngineError, match="needs real arrays"):
        explain(*arguments(arrays), engine="numpy_fused")


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_takes_what_forward_takes(order):
    values = random_problem()
    text = explain(*arguments(values), c0=values["c0"], training=False, precision="tf32", **order)
    assert text.splitlines()[0].endswith(": runs")


def test_backward_uses_the_engine_of_the_cache(monkeypatch):
    values = random_problem()
    for name in engine_names("numpy"):
        if refusal(name, types.SimpleNamespace(xp=np, device=None)):
            continue
        _, cache = forward(values, engine=name)
        used = []
        module = engines.load(name)
        part = "gradients" if hasattr(module, "gradients") else "backward"
        run = getattr(module, part)
        monkeypatch.setattr(module, part, lambda *a, used=used, run=run, **k: used.append(1) or run(*a, **k))
        lstm_xp.lstm_backward(values["dh"], cache)
        assert used == [1]


def test_an_engine_of_the_user():
    """An object with the parts of an engine is one; the cache holds it, and backward uses it."""
    calls = []

    class Mine:
        name = "mine"
        refuses = staticmethod(array_api.refuses)
        declines = staticmethod(array_api.declines)

        @staticmethod
        def forward(*arguments, **options):
            calls.append("forward")
            return array_api.forward(*arguments, **options)

        @staticmethod
        def backward(*arguments):
            calls.append("backward")
            return array_api.backward(*arguments)

    values, mine = random_problem(), Mine()
    _, cache = forward(values, engine=mine)
    assert cache.engine is mine
    lstm_xp.lstm_backward(values["dh"], cache)
    assert calls == ["forward", "backward"]
    assert explain(*arguments(values), engine=mine) == "mine: runs, as asked for"


def test_precision_is_remembered():
    values = random_problem()
    assert forward(values)[1].precision == "ieee"
    assert forward(values, precision="tf32")[1].precision == "tf32"


@pytest.mark.parametrize(
    ("dtype", "precision", "expected"),
    [("float64", None, "ieee"), ("float32", "tf32", "tf32"), ("float16", None, "tf32"), ("float16", "ieee", "tf32")],
)
def test_both_passes_use_the_engine_of_that_precision(monkeypatch, dtype, precision, expected):
    """TF32 has all the digits of a half type: there it is always allowed."""
    used = []

    def at(precision):
        used.append(precision)
        return array_api

    monkeypatch.setattr(engines, "_module", lambda name: types.SimpleNamespace(at=at))
    values = given(open_library("numpy"), random_problem(), dtype)
    _, cache = forward(values, engine="array_api", precision=precision)
    backward(values, cache)
    assert used == [expected] * 2
    assert cache.precision == expected
    explain(*arguments(values), precision=precision)
    assert used == [expected] * 3
