"""Layers of two directions: each writes to its place in the output; compiled ones run at the same time."""

import threading

import numpy as np
import pytest
from problems import refusal, same_bits

from lstm_xp import LSTM, State, engines, freeze, lstm_forward
from lstm_xp.engines import numpy_numba
from lstm_xp.libraries import open_library
from lstm_xp.testing import assert_close

WRITERS = [name for name in engines.ENGINES["numpy"] if hasattr(engines.load(name), "layer")]
N, T, D, H = 3, 7, 4, 5
ORDERS = {"all steps": None, "lengths": [7, 0, 3]}
# Seconds after which whoever waits for another is taken to wait for ever.
PATIENCE = 30

compiled = pytest.mark.skipif(bool(numpy_numba.obstacle()), reason=numpy_numba.obstacle())
writers = pytest.mark.parametrize("name", WRITERS)
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])


def skip_unless_it_runs(engine, dtype):
    reason = refusal(engine, open_library("numpy"), dtype)
    if reason:
        pytest.skip(reason)


def problem(dtype, sizes=(N, T, D, H), **options):
    """A bidirectional network, and what it is called with."""
    rows, steps, inputs, units = sizes
    network, rng = LSTM(inputs, units, bidirectional=True, **options), np.random.default_rng(0)
    directions = 2 * network.num_layers
    state = State(*(rng.standard_normal((directions, rows, units)).astype(dtype) for _ in range(2)))
    x = rng.standard_normal((rows, steps, inputs)).astype(dtype)
    dy = rng.standard_normal((rows, steps, 2 * units)).astype(dtype)
    return network, network.init(dtype=dtype, seed=1), x, state, dy


def everything(network, params, x, state, dy, lengths=None):
    """All results of a run, and its cache."""
    y, last, cache = network.forward(params, x, state, lengths=lengths)
    dx, dstate, dparams = network.backward(dy, cache, dstate=last)
    light, _, _ = network.forward(params, x, state, lengths=lengths, training=False)
    assert same_bits(light, y)
    gradients = [v for direction in dparams for v in direction if v is not None]
    return [y, *last, dx, *dstate, *gradients], cache


# --- Each writes to its place


@writers
@dtypes
@pytest.mark.parametrize("order", ORDERS)
def test_an_output_has_its_directions_side_by_side(name, dtype, order):
    skip_unless_it_runs(name, dtype)
    network, params, x, state, _ = problem(dtype, engine=name)
    y, last, cache = network.forward(params, x, state, lengths=ORDERS[order])
    assert y.shape == (N, T, 2 * H)
    for k, reverse in enumerate((False, True)):
        p, h0, c0 = params[k], state.h[k], state.c[k]
        options = {"c0": c0, "lengths": ORDERS[order], "reverse": reverse, "engine": name}
        h, alone = lstm_forward(x, h0, p.Wx, p.Wh, p.b, **options)
        assert same_bits(y[..., k * H : (k + 1) * H], h)
        assert same_bits(last.h[k], alone.h_n)
        assert same_bits(last.c[k], alone.c_n)
        # What backward needs of it is the output itself, and no copy.
        assert same_bits(cache.directions[k].h, h)
        assert np.shares_memory(cache.directions[k].h, y)


@writers
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("sizes", [(3, 7, 4, 5), (1, 9, 3, 64), (2, 5, 70, 37), (20, 40, 6, 33)], ids=str)
def test_a_layer_writes_between_what_others_have(name, order, sizes):
    skip_unless_it_runs(name, "float32")
    rows, steps, inputs, units = sizes
    rng = np.random.default_rng(0)
    x = rng.standard_normal((steps, rows, inputs), dtype=np.float32)
    h0, c0 = rng.standard_normal((2, rows, units), dtype=np.float32)
    Wx, Wh = (rng.standard_normal((size, 4 * units), dtype=np.float32) / 4 for size in (inputs, units))
    lengths = None if ORDERS[order] is None else rng.integers(0, steps + 1, rows)
    module, room = engines.load(name), np.full((steps, rows, 3 * units), np.nan, np.float32)
    place, expected = room[::-1, :, units : 2 * units], np.empty((steps, rows, units), np.float32)
    found = [module.layer(x, h0, c0, Wx, Wh, None, lengths, h, keep=True) for h in (place, expected)]
    assert same_bits(place, expected)
    assert all(map(same_bits, *found))
    assert np.all(np.isnan(room[..., :units]))
    assert np.all(np.isnan(room[..., 2 * units :]))
    _, c, gates = found[0]
    gradients = [
        module.gradients(expected, h0, None, gates, c, x, h0, c0, h, Wx, Wh, need_dx=True) for h in (place, expected)
    ]
    assert all(map(same_bits, *gradients))


@writers
def test_a_state_that_is_returned_is_no_part_of_the_output(name):
    skip_unless_it_runs(name, "float32")
    network, params, x, state, _ = problem("float32", engine=name)
    y, last, _ = network.forward(params, x, state)
    assert not any(np.shares_memory(y, v) for v in last)


# --- At the same time


@pytest.fixture
def limited(monkeypatch):
    """A function that says how many threads are allowed; any work is worth all of them."""
    from lstm_xp.engines.compiled import threads

    monkeypatch.setattr(threads, "_blas", tuple)
    monkeypatch.setattr(numpy_numba, "WORTH_A_THREAD", 1.0)
    monkeypatch.setattr(numpy_numba, "WORTH_A_MEETING", (1.0, 1.0))
    return lambda count: monkeypatch.setattr(threads.config, "NUMBA_NUM_THREADS", count)


@pytest.fixture
def pairs(monkeypatch):
    """On how many threads each kernel ran, of those that ran beside another."""
    code, met = numpy_numba._code(np.dtype("float32")), []

    def wrap(kernel):
        barrier = threading.Barrier(2)

        def run(*arguments):
            *_, part, parts = arguments
            if part == 0:
                barrier.wait(PATIENCE)  # breaks, where nobody else comes
                met.append(parts)
            kernel(*arguments)

        return run

    monkeypatch.setattr(code, "forward", wrap(code.forward))
    monkeypatch.setattr(code, "backward", wrap(code.backward))
    return met


@compiled
@pytest.mark.parametrize("sizes", [(3, 7, 4, 5), (2, 20, 3, 192), (23, 5, 3, 40)], ids=str)
@pytest.mark.parametrize("order", ORDERS)
def test_bits_do_not_depend_on_what_runs_at_the_same_time(limited, sizes, order):
    lengths = None if ORDERS[order] is None else np.arange(sizes[0]) * 3 % (sizes[1] + 1)
    arguments = problem("float32", sizes, num_layers=2)
    limited(1)
    expected, _ = everything(*arguments, lengths)
    for count in (2, 3, 4, 5):
        limited(count)
        for _ in range(3):
            found, _ = everything(*arguments, lengths)
            assert all(map(same_bits, found, expected)), f"with {count} threads"


@compiled
@pytest.mark.parametrize(("threads", "each"), [(2, 1), (4, 2), (6, 3)])
def test_directions_run_at_the_same_time_on_half_of_the_threads(limited, pairs, threads, each):
    limited(threads)
    everything(*problem("float32", (40, 20, 4, 64)))
    assert pairs == [each] * 6  # forwards, backwards, and forwards without training


# N, T, D, H, threads -> whether directions run at the same time.
CHOICES = {
    "work for a second thread": ((8, 100, 64, 128), 2, True),
    "too little work": ((1, 50, 64, 64), 2, False),
    "one thread": ((8, 100, 64, 128), 1, False),
    "few rows of large weights, which two caches hold": ((1, 100, 64, 1024), 2, False),
    "many rows of large weights": ((64, 100, 64, 1024), 2, True),
    "a third thread, which would have nothing to do": ((64, 100, 64, 256), 3, False),
    "a third thread, of which there is no use": ((1, 200, 64, 96), 3, True),
    "many threads": ((64, 100, 64, 256), 16, True),
}


@compiled
@pytest.mark.parametrize("case", CHOICES)
def test_when_directions_run_at_the_same_time(monkeypatch, case):
    from lstm_xp import checks
    from lstm_xp.engines.compiled import threads

    sizes, count, together = CHOICES[case]
    monkeypatch.setattr(threads, "_blas", tuple)
    monkeypatch.setattr(threads.config, "NUMBA_NUM_THREADS", count)
    seen = []
    calls = [lambda: seen.append(threading.get_ident())] * 2
    numpy_numba.both(checks.Problem("numpy", "float32", "cpu", *sizes, True, "ieee"), *calls)
    assert len(set(seen)) == 1 + together


@compiled
def test_a_call_beside_another_has_half_of_the_threads_and_then_all(limited):
    from lstm_xp.engines.compiled import threads

    limited(5)
    assert threads.both(threads.limit, threads.limit) == [2, 2]
    assert threads.limit() == 5
    assert threads.team() is threads.ALL


@compiled
def test_where_the_pool_is_in_use_directions_follow_each_other(limited):
    from lstm_xp.engines.compiled import threads

    limited(4)
    with threads.pool.free:
        assert len(set(threads.both(threading.get_ident, threading.get_ident))) == 1


@compiled
@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize("count", [2, 4])
def test_an_error_of_one_direction_is_reported_and_the_next_call_is_right(limited, monkeypatch, failing, count):
    from lstm_xp.engines.compiled import threads

    limited(count)
    arguments = problem("float32")
    expected, _ = everything(*arguments)

    def fail():
        raise MemoryError("no more")

    calls = [lambda: 1, lambda: 2]
    calls[failing] = fail
    with pytest.raises(MemoryError, match="no more"):
        threads.both(*calls)
    assert threads.team() is threads.ALL
    found, _ = everything(*arguments)
    assert all(map(same_bits, found, expected))


@compiled
def test_callers_on_several_threads_get_what_each_gets_alone(limited):
    from concurrent.futures import ThreadPoolExecutor

    limited(1)
    arguments = problem("float32", (9, 20, 4, 64), num_layers=2)
    expected, _ = everything(*arguments)
    limited(4)
    with ThreadPoolExecutor(4) as callers:
        for found, _ in callers.map(lambda _: everything(*arguments), range(12)):
            assert all(map(same_bits, found, expected))


@compiled
@pytest.mark.parametrize("which", [0, 1])
def test_each_direction_runs_in_the_callers_context(limited, which):
    """NumPy's errstate, for one, belongs to a context, and not to a thread."""
    from lstm_xp.engines.compiled import threads

    limited(2)
    calls = [lambda: None, lambda: None]
    calls[which] = lambda: np.float32(1e30) * np.float32(1e30)
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        threads.both(*calls)
    with np.errstate(over="ignore"):
        assert np.isinf(threads.both(*calls)[which])


@compiled
def test_an_interrupt_leaves_the_caller_with_all_threads(limited, monkeypatch):
    from lstm_xp.engines.compiled import threads

    limited(4)

    def interrupted(meeting):
        raise KeyboardInterrupt

    monkeypatch.setattr(threads, "ring", interrupted)
    with pytest.raises(KeyboardInterrupt):
        threads.both(lambda: 1, lambda: 2)
    assert threads.limit() == 4


@compiled
def test_calls_within_calls(limited):
    from lstm_xp.engines.compiled import threads

    limited(9)
    inner = lambda: [*threads.both(threads.limit, threads.limit), threads.limit()]  # noqa: E731
    assert threads.both(inner, inner) == [[2, 2, 4]] * 2


@compiled
def test_frozen_weights(limited):
    network, params, x, state, _ = problem("float32", (8, 20, 3, 40))
    limited(1)
    expected, _, _ = network.forward(params, x, state)
    limited(2)
    for _ in range(2):
        found, _, _ = network.forward(freeze(params), x, state, training=False)
        assert same_bits(found, expected)


def test_gradients_of_one_direction_may_have_another_shape():
    """As where PyTorch maps a function over the weights of one of them."""
    torch = pytest.importorskip("torch")
    network, params, x, _, dy = problem("float64")
    x, dy = map(torch.from_numpy, (x, dy))
    params = [type(p)(*(None if v is None else torch.from_numpy(v) for v in p)) for p in params]

    def dx_of(Wx):
        _, _, cache = network.forward([params[0], params[1]._replace(Wx=Wx)], x)
        return network.backward(dy, cache).dx

    several = torch.stack([params[1].Wx, params[1].Wx + 1])
    for found, Wx in zip(torch.func.vmap(dx_of)(several), several, strict=True):
        assert_close(found, dx_of(Wx), kind="gradient", steps=T)


@pytest.mark.parametrize("options", [{}, {"peepholes": True}, {"layer_norm": True}], ids=str)
def test_a_bias_alone_may_have_another_shape(options):
    torch = pytest.importorskip("torch")
    network = LSTM(2, 3, **options)
    (params,) = network.init(torch, "float64")
    x = torch.ones(2, 4, 2, dtype=torch.float64)
    several = torch.stack([params.b, params.b + 1])

    def y_of(b):
        return network.forward([params._replace(b=b)], x)[0]

    def step_of(b):
        return network.step([params._replace(b=b)], x[:, 0], None)[0]

    for call in (y_of, step_of):
        for found, b in zip(torch.func.vmap(call)(several), several, strict=True):
            assert_close(found, call(b), like=x)


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
@pytest.mark.parametrize("options", [{}, {"peepholes": True}, {"layer_norm": True, "proj_size": 2}], ids=str)
def test_torch_compiles_a_network_as_one_graph(options):
    torch = pytest.importorskip("torch")
    network = LSTM(2, 3, **options)
    params = network.init(torch, "float32")
    x = torch.ones(2, 4, 2)
    compile = torch.compile(lambda x: network.forward(params, x, training=False)[0], fullgraph=True, backend="eager")
    assert_close(compile(x), network.forward(params, x)[0], like=x)
