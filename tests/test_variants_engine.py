"""The cell variants in compiled code: which engine runs, what it leaves, its products, and when it is compiled."""

import copy
import pickle
import threading
import time

import numpy as np
import pytest
from problems import same_bits
from test_numba import LAYOUTS
from variant_problems import MANY, PLAIN, assert_same, backward, forward, orders_of, random_problem, typed

from lstm_xp import LSTM, EngineError, engines, gradient_traces
from lstm_xp.engines import numpy_numba
from lstm_xp.testing import assert_close

pytest.importorskip("numba")
if numpy_numba.obstacle():
    pytest.skip(numpy_numba.obstacle(), allow_module_level=True)

from lstm_xp.engines.compiled import code as code_of
from lstm_xp.engines.compiled import kernels

NAME, REFERENCE = numpy_numba.name, engines.load("array_api")
MOST = MANY["all but layer norm"]
dtypes = pytest.mark.parametrize("dtype", numpy_numba.DTYPES)
named = pytest.mark.parametrize("variant", MANY.values(), ids=MANY)


# --- Products


def whole_numbers(rng, shape, dtype):
    return rng.integers(-3, 4, shape).astype(dtype)


@pytest.mark.parametrize("layout", [*LAYOUTS, "repeated"])
@dtypes
def test_products_of_whole_numbers_are_exact(limited, eager, dtype, layout):
    """One row, one column, one term; less, as much and more than a vector or a tile; on one thread and several."""
    rng = np.random.default_rng(0)
    lay = LAYOUTS.get(layout, lambda v: np.broadcast_to(v[:1], v.shape))
    for M, K, N in [
        (1, 1, 1),
        (1, 5, 9),
        (7, 1, 4),
        (5, 9, 1),
        (1, 300, 1),
        (17, 3, 33),
        (8, 16, 64),
        (65, 40, 31),
        (600, 2, 5),
    ]:
        A, B = lay(whole_numbers(rng, (M, K), dtype)), lay(whole_numbers(rng, (K, N), dtype))
        bias = lay(whole_numbers(rng, N, dtype))
        for count in (1, 2, 3):
            limited(count)
            assert same_bits(numpy_numba.product(A, B), A @ B + 0)
            assert same_bits(numpy_numba.product(A, B, bias), A @ B + bias)
            assert same_bits(numpy_numba.product(B.T, A.T), (B.T @ A.T) + 0)


@dtypes
def test_products_within_the_table_and_of_nan(limited, dtype):
    rng = np.random.default_rng(0)
    A, B = rng.standard_normal((65, 500)).astype(dtype), rng.standard_normal((500, 70)).astype(dtype)
    found = numpy_numba.product(A, B, B[0])
    assert_close(found, A.astype(float) @ B.astype(float) + B[0].astype(float), like=A)
    A[3, 7] = np.nan
    found, clean = numpy_numba.product(A, B, B[0]), found
    assert np.all(np.isnan(found[3]))
    assert same_bits(np.delete(found, 3, axis=0), np.delete(clean, 3, axis=0))


# --- Which engine runs, and what it leaves


def network_run(network, dtype="float32", **options):
    x = np.random.default_rng(0).standard_normal((3, 5, 2)).astype(dtype)
    params = network.init(dtype=np.dtype(dtype), seed=1)
    return network.forward(params, x, **options)


CHOSEN = {
    "plain": ({}, "float32", NAME),
    "peepholes": ({"peepholes": True}, "float32", NAME),
    "float64": ({"layer_norm": True}, "float64", NAME),
    "half": ({"peepholes": True}, "float16", REFERENCE.name),
    "Softplus": ({"activations": ("Sigmoid", "Tanh", "Softplus")}, "float32", REFERENCE.name),
    "by name": ({"peepholes": True, "engine": REFERENCE.name}, "float32", REFERENCE.name),
}


@pytest.mark.parametrize("case", CHOSEN)
def test_which_engine_runs(case):
    options, dtype, expected = CHOSEN[case]
    for directions in (False, True):
        network = LSTM(2, 4, bidirectional=directions, **options)
        y, state, cache = network_run(network, dtype)
        assert [of.engine for of in cache.directions] == [expected] * (1 + directions)
        gradients = network.backward(y, cache, dstate=state)
        assert all(v is None or v.dtype == dtype for v in (gradients.dx, *gradients.dstate, *gradients.dparams[0]))


@pytest.mark.parametrize(
    ("name", "options", "dtype", "reason"),
    [
        (NAME, {"activations": ("Softplus", "Tanh", "Tanh")}, "float32", "it has no Softplus"),
        (NAME, {"activations": ("Sigmoid", "Tanh", "Softplus"), "clip": 1.0}, "float64", "it has no Softplus"),
        (NAME, {"peepholes": True}, "float16", "it computes float32 and float64, not float16"),
        ("numpy_fused", {"peepholes": True}, "float32", "it computes plain cells only"),
        ("numpy_fused", {"zoneout_h": 0.5}, "float64", "it computes plain cells only"),
    ],
    ids=str,
)
def test_an_engine_that_cannot_says_why(name, options, dtype, reason):
    with pytest.raises(EngineError, match=f"^engine '{name}' cannot run this problem: {reason}.$"):
        network_run(LSTM(2, 4, engine=name, **options), dtype)


def test_an_engine_that_is_an_object_runs_variants_too():
    class Mine:
        name, cells, cells_gradients = (
            "mine",
            staticmethod(numpy_numba.cells),
            staticmethod(numpy_numba.cells_gradients),
        )
        refuses = declines = lacks = staticmethod(lambda problem: "")
        forward = backward = None

    network = LSTM(2, 4, peepholes=True, engine=Mine())
    y, _, cache = network_run(network)
    assert cache.directions[0].engine is network.engine
    other = LSTM(2, 4, peepholes=True, engine=NAME)
    expected, _, same = network_run(other)
    assert_close(y, expected)
    assert_close(network.backward(y, cache).dx, other.backward(y, same).dx, kind="gradient", steps=5)


@named
def test_a_cache_that_was_pickled_gives_the_same_gradients(variant):
    """It holds the engine by its name, and of pre-activations what slopes need: none, where gates say all."""
    for order in orders_of(4, 5):
        values = random_problem(variant)
        _, cache = forward(variant, values, engine=NAME, **order)
        assert cache.engine == NAME
        plain = variant.clip is None and variant.activations == PLAIN
        assert (cache.z is None) == plain
        other = pickle.loads(pickle.dumps(cache))
        assert other.nbytes == cache.nbytes
        assert_same(backward(values, other), backward(values, cache))
    per_cell = 5 + 4 * (not plain) + (variant.zoneout_c is not None)
    assert cache.nbytes == 8 * (4 * 5 * 6 * per_cell + 4 * (6 + values["h0"].shape[1]))


@pytest.mark.parametrize("lengths", [None, [5, 0, 2]], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {"peepholes": True}, {"proj_size": 3, "clip": 1.0}, {"layer_norm": True, "zoneout_c": 0.2, "zoneout_h": 0.3},
        {"coupled": True, "activations": ("Sigmoid", "Softsign", "Elu"), "num_layers": 2},
    ],
    ids=str,
)  # fmt: skip
def test_gradient_traces_are_those_of_the_reference(options, lengths):
    """Which computes them from what this engine kept."""
    found = []
    for engine in (NAME, REFERENCE.name):
        network = LSTM(2, 5, bidirectional=True, engine=engine, **options)
        y, state, cache = network_run(network, "float64", lengths=lengths)
        found.append(gradient_traces(np.sin(np.arange(y.size)).reshape(y.shape), cache, dstate=state))
    for trace, expected in zip(*found, strict=True):
        for name, value in list(trace._asdict().items())[:-1]:
            assert_close(value, getattr(expected, name), kind="gradient", steps=5, name=name)


# --- Compiled when it is asked for


class Impatient:
    """A timer whose time has come before it starts."""

    started = []  # noqa: RUF012  all of them

    def __init__(self, seconds, call):
        self.seconds, self.call, self.cancelled = seconds, call, False

    def start(self):
        self.started.append(self)
        self.call()

    def cancel(self):
        self.cancelled = True


@dtypes
def test_kernels_are_compiled_when_they_are_wanted_and_once(monkeypatch, capsys, dtype):
    """With one notice, however many take long; what is no kernel, is none."""
    compiled = []
    monkeypatch.setattr(Impatient, "started", [])
    monkeypatch.setattr(code_of, "Timer", Impatient)
    monkeypatch.setattr(kernels, "compile", lambda function, of: compiled.append(function.__name__) or function)
    code = numpy_numba._code.__wrapped__(np.dtype(dtype))
    assert compiled == []
    assert code.cell_forward is code.cell_forward
    assert compiled == ["cell_forward"]
    with pytest.raises(AttributeError, match="something"):
        _ = code.something
    monkeypatch.setattr(numpy_numba, "_code", lambda of: code)
    numpy_numba.warmup(dtype)
    every = [function.__name__ for function in kernels.signatures(code.dtype)]
    assert compiled == ["cell_forward", *(name for name in every if name != "cell_forward")]
    assert {"cell_backward", "matmul", "forward", "backward", "step"} <= set(every)
    numpy_numba.warmup(dtype)
    assert len(compiled) == len(every)
    assert all(timer.cancelled and timer.seconds == 1.0 for timer in Impatient.started)
    assert capsys.readouterr().err == code_of.NOTICE.format(dtype=dtype) + "\n"


def test_a_variant_compiles_what_it_needs(monkeypatch):
    code, wanted = numpy_numba._code.__wrapped__(np.dtype("float32")), []
    compile = kernels.compile
    monkeypatch.setattr(
        kernels, "compile", lambda function, of: wanted.append(function.__name__) or compile(function, of)
    )
    monkeypatch.setattr(numpy_numba, "_code", lambda of: code)
    arrays = typed(random_problem(MOST), "float32")
    _, cache = forward(MOST, arrays, engine=NAME)
    assert sorted(wanted) == ["cell_forward", "matmul"]
    backward(arrays, cache)
    assert sorted(wanted) == ["cell_backward", "cell_forward", "matmul"]


def test_a_kernel_is_compiled_once_by_whoever_asks_first(monkeypatch):
    """Several threads ask at the same time: the others wait for it."""
    code, made, all_ask = numpy_numba._code.__wrapped__(np.dtype("float32")), [], threading.Barrier(4)

    def compile(function, dtype):
        made.append(function)
        time.sleep(0.05)
        return object()

    def ask():
        all_ask.wait(10)
        found.append(code.matmul)

    monkeypatch.setattr(kernels, "compile", compile)
    found = []
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert made == [kernels.matmul]
    assert len(found) == 4
    assert len({id(kernel) for kernel in found}) == 1


def test_a_code_has_no_names_but_its_own():
    code = numpy_numba._code(np.dtype("float32"))
    assert copy.copy(code).dtype == code.dtype
    for owner, name in ((code, "nothing"), (code_of.Code(), "dtype"), (code_of.Code(), "__deepcopy__")):
        with pytest.raises(AttributeError, match=name):
            getattr(owner, name)


@dtypes
@pytest.mark.parametrize("unit", range(8))
def test_a_gradient_of_what_is_not_a_number_is_none_with_clip_either(dtype, unit):
    network = LSTM(1, 2, clip=1.0)
    params = network.init(dtype=np.dtype(dtype))
    params[0].b[unit] = np.nan
    x = np.ones((1, 1, 1), dtype)
    for engine in (NAME, REFERENCE.name):
        network = LSTM(1, 2, clip=1.0, engine=engine)
        y, _, cache = network.forward(params, x)
        (dparams,) = network.backward(np.ones_like(y), cache).dparams
        assert np.isnan(dparams.b[unit]), engine


@pytest.mark.parametrize("wrong", ["numpy_fused", "nobody", object()])
def test_a_step_on_an_engine_that_cannot_is_refused_as_a_sequence_is(wrong):
    network = LSTM(2, 4, peepholes=True, engine=wrong)
    x = np.ones((3, 2), np.float32)
    with pytest.raises(EngineError) as of_sequence:
        network.forward(network.init(), x[:, None, :])
    with pytest.raises(EngineError) as of_step:
        network.step(network.init(), x, None)
    assert str(of_step.value) == str(of_sequence.value)
    for engine in ("auto", NAME, REFERENCE.name):
        network = LSTM(2, 4, peepholes=True, engine=engine)
        y, _ = network.step(network.init(), x, None)
        assert_close(y, network.forward(network.init(), x[:, None, :])[0][:, 0], like=x)
