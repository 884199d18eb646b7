"""What is kept, and how much is held at a time. No times are measured here, only bytes."""

import tracemalloc

import numpy as np
import pytest
from problems import (
    ORDERS,
    OUTPUTS,
    compare,
    forward,
    given,
    host,
    orders,
    random_problem,
    reference,
    run,
    same_bits,  # fmt: skip
)
from variant_problems import VARIANTS
from variant_problems import forward as variant_forward
from variant_problems import random_problem as variant_problem

CHUNK = 1 << 10
STEPS = (64, 512)
N, D, H = 4, 3, 8


def long_problem(T, layout="batch-major"):
    values = random_problem(N, T, D, H)
    if layout == "time-major":  # as h of a layer below is
        values["x"] = np.ascontiguousarray(values["x"].swapaxes(0, 1)).swapaxes(0, 1)
    return values


def order_of(name, T):
    return {**ORDERS[name], **({"lengths": [T, 0, T // 3, T - 1]} if "lengths" in name else {})}


def peak(function):
    """The most bytes that NumPy and Python held at a time while the function ran, beside its results."""
    tracemalloc.start()
    try:
        result = function()
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("layout", ["batch-major", "time-major"])
@pytest.mark.parametrize("order", ORDERS)
def test_without_training_memory_does_not_grow_with_the_length(engine, monkeypatch, order, layout):
    monkeypatch.setattr("lstm_xp.stages.CHUNK", CHUNK)
    monkeypatch.setattr("lstm_xp.engines.numpy_fused.BLOCK", CHUNK // 8)  # a small part of a chunk, as it really is
    monkeypatch.setattr("lstm_xp.engines.numpy_fused.TOGETHER", 0)
    beyond = []
    for T in STEPS:
        values = long_problem(T, layout)
        options = {"engine": engine, "training": False, **order_of(order, T)}
        # Several times, for Python's own lists of free objects fill by and by.
        runs = [peak(lambda values=values, options=options: forward(values, **options)) for _ in range(4)]
        beyond.append(min(most - h.nbytes for (h, _), most in runs))
    # Eight times the steps; a part as small as one value a step and row would be 8 * 4 * 448 bytes more.
    assert beyond[1] - beyond[0] < 8 * N * (STEPS[1] - STEPS[0])
    # The arrays of a chunk, and Python's views of its steps.
    assert beyond[1] < 10 * 8 * CHUNK


@pytest.mark.computes("float16")
def test_without_training_no_copy_of_all_inputs_is_made_to_convert_them(engine, monkeypatch):
    monkeypatch.setattr("lstm_xp.stages.CHUNK", CHUNK)
    monkeypatch.setattr("lstm_xp.engines.numpy_fused.BLOCK", CHUNK // 8)
    beyond = []
    for T in STEPS:
        values = {name: value.astype("float16") for name, value in random_problem(N, T, 64, H).items()}
        runs = [peak(lambda values=values: forward(values, engine=engine, training=False)) for _ in range(4)]
        beyond.append(min(most - h.nbytes for (h, _), most in runs))
    assert beyond[1] - beyond[0] < 4 * N * 64 * (STEPS[1] - STEPS[0]) / 4


@pytest.mark.parametrize("order", ORDERS)
def test_training_memory_is_seen_to_grow(engine, monkeypatch, order):
    """The measurement above can tell: with training the same difference is that of the gates at least."""
    beyond = []
    for T in STEPS:
        values = long_problem(T)
        (h, _), most = peak(lambda values=values, T=T: forward(values, engine=engine, **order_of(order, T)))
        beyond.append(most - h.nbytes)
    assert beyond[1] - beyond[0] > 8 * 4 * N * H * (STEPS[1] - STEPS[0])


@pytest.mark.parametrize("order", ORDERS)
def test_without_training_memory_is_bounded_on_torch(library, monkeypatch, order):
    """No operation makes a tensor larger than a chunk, but the one that makes the output."""
    lib = library("torch")
    from torch.utils._python_dispatch import TorchDispatchMode

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, tuple | list) else (result,):
                if isinstance(tensor, lib.xp.Tensor):
                    made[tensor.untyped_storage().data_ptr()] = (tensor.untyped_storage().nbytes(), str(function))
                    kept.append(tensor)
            return result

    monkeypatch.setattr("lstm_xp.stages.CHUNK", CHUNK // 4)
    T = 48
    arrays = given(lib, random_problem(N, T, D, H))
    ours = {array.untyped_storage().data_ptr() for array in arrays.values()}
    made, kept = {}, []
    with Sizes():
        h, _ = forward(arrays, training=False, **order_of(order, T))
    ours.add(h.untyped_storage().data_ptr())
    larger = {name for pointer, (size, name) in made.items() if size > 8 * CHUNK // 4 and pointer not in ours}
    assert not larger


@orders
def test_chunks_give_the_same(lib, engine, order, monkeypatch):
    """One step at a time, two, or all at once."""
    if lib.name in ("array-api-strict", "jax", "dask"):
        pytest.skip(f"{lib.name} has no assignment into arrays, and so no chunks")
    values = random_problem()
    arrays = given(lib, values)
    whole = run(arrays, engine=engine, training=False, **order)
    compare(whole, reference(values, **order), arrays["x"], steps=5)
    whole = host(whole)
    for chunk in (1, 2 * 4 * 4 * 2, 3 * 4 * 4 * 2):
        monkeypatch.setattr("lstm_xp.stages.CHUNK", chunk)
        results = host(run(arrays, engine=engine, training=False, **order))
        assert set(results) == set(OUTPUTS)
        for name, result in results.items():
            assert same_bits(result, whole[name]), f"{name} with chunks of {chunk}"


def test_without_training_nothing_is_kept(lib, engine):
    _, cache = forward(given(lib, random_problem()), engine=engine, training=False)
    kept = {name for name, value in cache._asdict().items() if value is not None}
    assert kept == {"h_n", "c_n", "reverse", "precision", "engine"}


@orders
def test_training_keeps_references_to_the_very_arrays(lib, engine, order):
    arrays = given(lib, random_problem())
    h, cache = forward(arrays, engine=engine, **order)
    for name in ("x", "h0", "c0", "Wx", "Wh"):
        assert getattr(cache, name) is arrays[name], name
    assert cache.h is h


@orders
def test_training_keeps_gates_and_c_and_nothing_else_of_their_order(engine, order):
    values = random_problem(N=4, T=64, D=3, H=8)
    if "lengths" in order:
        order = {**order, "lengths": [64, 0, 20, 33]}
    forward(values, engine=engine, **order)
    tracemalloc.start()
    h, cache = forward(values, engine=engine, **order)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    gates, states = 4 * 64 * 4 * 8 * 8, 4 * 64 * 8 * 8
    assert h.nbytes == states
    # Gates, c, h, and room for less than half of another state: the final state, lengths, Python's own objects.
    assert gates + 2 * states <= held < gates + 2.5 * states
    assert cache.nbytes == gates + states + 2 * 4 * 8 * 8


def test_nbytes_counts_what_is_held(lib, engine):
    _, cache = forward(given(lib, random_problem(), "float32"), engine=engine)
    assert cache.nbytes == 4 * (4 * 5 * 8 + 4 * 5 * 2 + 2 * 4 * 2)
    _, light = forward(given(lib, random_problem(), "float32"), engine=engine, training=False)
    assert light.nbytes == 4 * 2 * 4 * 2


@pytest.mark.parametrize("name", VARIANTS)
@orders
def test_variants_in_chunks_give_the_same(order, name, monkeypatch):
    values = variant_problem(VARIANTS[name], N=4, T=5)
    whole, cache = variant_forward(VARIANTS[name], values, keep=False, **order)
    for chunk in (1, 2 * 4 * 4 * 6, 3 * 4 * 4 * 6):
        monkeypatch.setattr("lstm_xp.stages.CHUNK", chunk)
        h, found = variant_forward(VARIANTS[name], values, keep=False, **order)
        assert same_bits(h, whole)
        assert same_bits(found.h_n, cache.h_n)
        assert same_bits(found.c_n, cache.c_n)


@pytest.mark.parametrize("order", ORDERS)
def test_memory_of_variants_without_training_does_not_grow_with_the_length(monkeypatch, order):
    """But for h itself, which is put together of those of the chunks; a chunk has four times as many numbers a step."""
    monkeypatch.setattr("lstm_xp.stages.CHUNK", CHUNK)
    beyond = []
    for T in STEPS:
        values = variant_problem(VARIANTS["all"], N, T, D, H)
        options = {"keep": False, **order_of(order, T)}
        runs = [
            peak(lambda values=values, options=options: variant_forward(VARIANTS["all"], values, **options))
            for _ in range(4)
        ]
        beyond.append(min(most - 2 * h.nbytes for (h, _), most in runs))
    assert beyond[1] - beyond[0] < 8 * N * H * (STEPS[1] - STEPS[0])
