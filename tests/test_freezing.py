"""Weights that nobody changes: what `freeze` returns, and what the compiled engine keeps of it."""

import gc
import pickle

import numpy as np
import pytest
from problems import ARGUMENTS, given, random_problem, same_bits

from lstm_xp import LSTM, Direction, freeze, lstm_backward, lstm_forward
from lstm_xp.engines import numpy_numba
from lstm_xp.freezing import is_frozen

compiled = pytest.mark.skipif(bool(numpy_numba.obstacle()), reason=numpy_numba.obstacle())


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_nobody_can_write_to_what_is_frozen(dtype):
    before = np.arange(24).reshape(4, 6).astype(dtype)[:, ::2]
    frozen = freeze(before)
    assert type(frozen) is np.ndarray
    assert frozen.dtype == before.dtype
    assert np.array_equal(frozen, before)
    for array in (frozen, frozen.T, frozen[1:], frozen.reshape(-1), pickle.loads(pickle.dumps(frozen, 5))):
        assert is_frozen(array)
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True
    before[...] = 0
    assert np.array_equal(frozen, np.arange(24).reshape(4, 6)[:, ::2])
    assert freeze(frozen) is frozen
    assert frozen.copy().flags.writeable


def test_what_others_can_write_to_is_not_frozen():
    array = np.zeros((2, 3))
    view = array.view()
    view.flags.writeable = False
    assert not is_frozen(array)
    assert not is_frozen(view)
    assert not is_frozen(np.frombuffer(bytearray(8)))
    assert freeze(view) is not view


def test_a_mapped_file_is_read_into_memory(tmp_path):
    np.save(tmp_path / "W.npy", np.arange(6.0))
    frozen = freeze(np.load(tmp_path / "W.npy", mmap_mode="r"))
    assert type(frozen) is np.ndarray
    assert is_frozen(frozen)
    assert np.array_equal(frozen, np.arange(6.0))


def test_tuples_lists_and_dicts_stay_what_they_are():
    params = LSTM(3, 4, num_layers=2, bias=False).init()
    frozen = freeze(params)
    assert type(frozen) is tuple
    assert all(type(part) is Direction for part in frozen)
    assert frozen[1].b is None
    assert is_frozen(frozen[1].Wh)
    assert freeze({"weights": [np.ones(3), None]})["weights"][1] is None
    assert isinstance(freeze([np.ones(3)]), list)


def test_arrays_of_other_libraries_are_returned_as_they_are(lib):
    array = lib.asarray(np.ones((2, 3)))
    assert is_frozen(freeze(array)) if type(array) is np.ndarray else freeze(array) is array


@pytest.mark.parametrize("wrong", ["weights.npz", 3.0, {1, 2}, [np.ones(2), "b"]])
def test_what_is_no_array_is_refused(wrong):
    with pytest.raises(TypeError, match=r"freeze: weights must be arrays, .*; got (str|float|set)"):
        freeze(wrong)


# --- The compiled engine


def frozen_problem(*sizes, dtype="float32"):
    values = random_problem(*sizes)
    arrays = {name: value.astype(dtype) for name, value in values.items()}
    return arrays, arrays | {name: freeze(arrays[name]) for name in ("Wx", "Wh", "b")}


def run_engine(arrays, **options):
    x, h0, Wx, Wh, b, c0 = (arrays[name] for name in ARGUMENTS)
    h, cache = lstm_forward(x, h0, Wx, Wh, b, c0=c0, engine="numpy_numba", **options)
    return h, cache.h_n, cache.c_n


def kept():
    return [key for dtype in numpy_numba.DTYPES for key in numpy_numba._code(np.dtype(dtype)).prepared]


# N, T, D, H: one row and few, a tile of rows and more; D and H below, at and beyond whole vectors; more steps than are
# taken at a time (the second and the last), more units than one thread has.
SIZES = [
    (1, 5, 3, 2),
    (2, 900, 17, 33),
    (3, 4, 130, 16),
    (7, 9, 5, 64),
    (1, 6, 40, 300),
    (40, 3, 9, 21),
    (300, 9, 5, 40),
]


@compiled
@pytest.mark.parametrize("order", [{}, {"reverse": True}, {"lengths": True}], ids=["forward", "reverse", "lengths"])
@pytest.mark.parametrize("dtype", numpy_numba.DTYPES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_frozen_weights_change_no_bit(sizes, dtype, order):
    arrays, frozen = frozen_problem(*sizes, dtype=dtype)
    if "lengths" in order:
        order = {"lengths": np.random.default_rng(1).integers(0, sizes[1] + 1, sizes[0])}
    for training in (False, True):
        expected = run_engine(arrays, training=training, **order)
        for _ in range(2):  # prepared, and found prepared
            for result, wanted in zip(run_engine(frozen, training=training, **order), expected, strict=True):
                assert same_bits(result, wanted)
    (Wx, Wh), keys = (frozen[name] for name in ("Wx", "Wh")), kept()
    assert any(key[:2] == (id(Wx), id(Wh)) for key in keys)


@compiled
@pytest.mark.parametrize("name", ["Wx", "Wh"])
def test_frozen_weights_that_are_not_aligned(name):
    arrays, frozen = frozen_problem(3, 4, 5, 6)
    weights = np.ndarray(arrays[name].shape, "float32", b"." + arrays[name].tobytes(), offset=1)
    assert is_frozen(weights)
    assert not weights.flags.aligned
    for result, wanted in zip(run_engine(frozen | {name: weights}), run_engine(arrays), strict=True):
        assert same_bits(result, wanted)


@compiled
def test_gradients_of_frozen_weights():
    arrays, frozen = frozen_problem(5, 7, 19, 33)
    found = []
    for values in (arrays, frozen):
        x, h0, Wx, Wh, b, c0 = (values[name] for name in ARGUMENTS)
        _h, cache = lstm_forward(x, h0, Wx, Wh, b, c0=c0)
        found.append(lstm_backward(values["dh"], cache, dh_n=values["dh_n"], dc_n=values["dc_n"]))
    for wanted, result in zip(*found, strict=True):
        assert same_bits(result, wanted)
        assert result.flags.writeable


@compiled
def test_weights_are_prepared_once_and_forgotten_with_their_arrays(monkeypatch):
    code, calls = numpy_numba._code(np.dtype("float32")), []
    prepare = code.prepare
    monkeypatch.setattr(code, "prepare", lambda *given: (calls.append(given[2]), prepare(*given)))
    gc.collect()
    before = kept()
    _, frozen = frozen_problem(8, 5, 6, 20)
    few = frozen | {name: np.ascontiguousarray(frozen[name][:2]) for name in ("x", "h0", "c0")}
    for arrays in (frozen, few, frozen, few):
        run_engine(arrays)
    assert calls == [False, True]
    other = frozen | {"Wh": freeze(-frozen["Wh"])}
    assert not same_bits(run_engine(other)[0], run_engine(frozen)[0])
    assert len(kept()) == len(before) + 3
    del other, arrays
    gc.collect()
    assert len(kept()) == len(before) + 2
    calls.clear()  # which hold nothing of the arrays
    del frozen, few
    gc.collect()
    assert kept() == before


@compiled
def test_weights_that_may_have_been_written_to_are_prepared_anew():
    arrays, _ = frozen_problem(3, 4, 5, 6)
    views = dict(arrays)
    for name in ("Wx", "Wh"):
        views[name] = arrays[name].view()
        views[name].flags.writeable = False
    first = run_engine(views)[0]
    arrays["Wh"][...] *= 2
    second = run_engine(views)[0]
    assert not same_bits(first, second)
    assert same_bits(second, run_engine(arrays)[0])
    assert all(id(views["Wh"]) not in key for key in kept())


@compiled
def test_few_rows_for_each_thread_are_many_for_one(monkeypatch):
    """The pool is in use, so that one thread has all rows, with weights prepared for few."""
    from lstm_xp.engines.compiled import threads

    for N in (2, 3, 4, 7):
        arrays, frozen = frozen_problem(N, 5, 6, 20)
        expected = run_engine(arrays)
        monkeypatch.setattr(numpy_numba, "_divide", lambda *_, N=N: (False, -(-N // 2)))
        with threads.pool.free:
            for result, wanted in zip(run_engine(frozen), expected, strict=True):
                assert same_bits(result, wanted)
        monkeypatch.undo()
        assert any(key[2] for key in kept())


def test_a_network_of_frozen_parameters(library):
    lib = library("numpy")
    network = LSTM(3, 5, num_layers=2, bidirectional=True)
    params, x = network.init(seed=1), given(lib, random_problem(4, 6, 3, 5), "float32")["x"]
    for training in (False, True):
        expected, result = (network.forward(p, x, training=training)[0] for p in (params, freeze(params)))
        assert same_bits(result, expected)
