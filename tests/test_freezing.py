"""Weights that nobody changes: what `freeze` returns, and what the compiled engine keeps of it."""

import gc
import pickle
import weakref

import numpy as np
import pytest
from problems import ARGUMENTS, given, random_problem, same_bits

from lstm_xp import LSTM, Direction, freeze, lstm_backward, lstm_forward
from lstm_xp.engines import numpy_numba
from lstm_xp.freezing import Frozen, memory_of

compiled = pytest.mark.skipif(bool(numpy_numba.obstacle()), reason=numpy_numba.obstacle())


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_nobody_can_write_to_what_is_frozen(dtype):
    before = np.arange(24).reshape(4, 6).astype(dtype)[:, ::2]
    frozen = freeze(before)
    assert type(frozen) is np.ndarray
    assert frozen.dtype == before.dtype
    assert np.array_equal(frozen, before)
    for array in (frozen, frozen.T, frozen[1:], frozen.reshape(-1)):
        assert memory_of(array) is memory_of(frozen) is not None
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
    for each in (array, view, np.frombuffer(bytearray(8)), np.frombuffer(bytes(8))):
        assert memory_of(each) is None
    assert freeze(view) is not view


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_an_array_out_of_a_pickle_is_not_frozen(protocol):
    """NumPy's lies in bytes, too, and can be written to."""
    for array in (np.zeros((64, 64)), freeze(np.zeros((64, 64)))):
        loaded = pickle.loads(pickle.dumps(array, protocol))
        view = loaded.view()
        view.flags.writeable = False
        assert memory_of(loaded) is memory_of(view) is None


def test_the_order_of_memory_is_kept():
    array = np.arange(6.0).reshape(2, 3)
    for before, order in ((array, "C"), (np.asfortranarray(array), "F"), (np.repeat(array, 2, axis=1)[:, ::2], "C")):
        frozen = freeze(before)
        assert np.array_equal(frozen, array)
        assert frozen.flags[f"{order}_CONTIGUOUS"]


def test_a_mapped_file_is_read_into_memory(tmp_path):
    np.save(tmp_path / "W.npy", np.arange(6.0))
    frozen = freeze(np.load(tmp_path / "W.npy", mmap_mode="r"))
    assert type(frozen) is np.ndarray
    assert memory_of(frozen)
    assert np.array_equal(frozen, np.arange(6.0))


def test_tuples_lists_and_dicts_stay_what_they_are():
    params = LSTM(3, 4, num_layers=2, bias=False).init()
    frozen = freeze(params)
    assert type(frozen) is tuple
    assert all(type(part) is Direction for part in frozen)
    assert frozen[1].b is None
    assert memory_of(frozen[1].Wh)
    assert freeze({"weights": [np.ones(3), None]})["weights"][1] is None
    assert isinstance(freeze([np.ones(3)]), list)


def test_arrays_of_other_libraries_are_returned_as_they_are(lib):
    array = lib.asarray(np.ones((2, 3)))
    assert memory_of(freeze(array)) if type(array) is np.ndarray else freeze(array) is array


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


def prepared(W):
    """What is kept of a weight, by dtype, `few`, place, shape and strides."""
    return memory_of(W).prepared


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
    assert len(prepared(frozen["Wx"])) == len(prepared(frozen["Wh"])) == 1


@compiled
@pytest.mark.parametrize("name", ["Wx", "Wh"])
def test_frozen_weights_that_are_not_aligned(name):
    arrays, frozen = frozen_problem(3, 4, 5, 6)
    weights = np.ndarray(arrays[name].shape, "float32", Frozen(b"." + arrays[name].tobytes()), offset=1)
    assert memory_of(weights)
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
def test_weights_are_prepared_once_and_what_is_kept_goes_with_them(monkeypatch):
    code, calls = numpy_numba._code(np.dtype("float32")), []
    prepare = code.prepare
    monkeypatch.setattr(code, "prepare", lambda *given: (calls.append(given[:2]), prepare(*given)))
    _, frozen = frozen_problem(8, 5, 6, 20)
    few = frozen | {name: np.ascontiguousarray(frozen[name][:2]) for name in ("x", "h0", "c0")}
    for arrays in (frozen, few, frozen, few):
        run_engine(arrays)
    Wx, Wh = frozen["Wx"], frozen["Wh"]
    assert [(W is Wh, layout) for W, layout in calls] == [(True, False), (False, False), (True, True)]
    calls.clear()
    assert not same_bits(run_engine(frozen | {"Wh": freeze(-Wh)})[0], run_engine(frozen)[0])
    calls.clear()
    kept = [weakref.ref(each) for W in (Wx, Wh) for each in prepared(W).values()]
    assert len(kept) == 3
    del frozen, few, arrays, Wx, Wh
    gc.collect()
    assert not any(each() is not None for each in kept)


@compiled
def test_views_of_one_frozen_array():
    """Of one memory, shape and strides: it is the place that tells them apart."""
    arrays, _ = frozen_problem(3, 4, 5, 5)
    both = freeze(np.concatenate([arrays["Wx"], arrays["Wh"]]))
    for _ in range(2):
        views = arrays | {"Wx": both[:5], "Wh": both[5:]}
        assert same_bits(run_engine(views)[0], run_engine(arrays)[0])
    assert len(prepared(both)) == 2


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
        assert any(few for _, few, *_ in prepared(frozen["Wh"]))


def test_a_network_of_frozen_parameters(library):
    lib = library("numpy")
    network = LSTM(3, 5, num_layers=2, bidirectional=True)
    params, x = network.init(seed=1), given(lib, random_problem(4, 6, 3, 5), "float32")["x"]
    for training in (False, True):
        expected, result = (network.forward(p, x, training=training)[0] for p in (params, freeze(params)))
        assert same_bits(result, expected)
