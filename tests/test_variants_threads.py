"""The cell variants in compiled code on several threads: the same bits, whatever is divided, and at the same time."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from problems import same_bits
from test_numba_threads import deadlocks_fail, denormals  # noqa: F401  a fixture for every test
from variant_problems import MANY, assert_same, backward, forward, lengths_of, numba_run, random_problem, typed

from lstm_xp import LSTM, State
from lstm_xp.engines import numpy_numba

pytest.importorskip("numba")
if numpy_numba.obstacle():
    pytest.skip(numpy_numba.obstacle(), allow_module_level=True)

from lstm_xp.engines.compiled import threads

NAME = numpy_numba.name
LIMITS = (2, 3, 5)
# Seconds after which whoever waits for another is taken to wait for ever.
PATIENCE = 60
MOST = MANY["all but layer norm"]
SEVERAL = ("all", "all, coupled", "all but layer norm", "all but layer norm, rates", "projection", "zoneout of h")
dtypes = pytest.mark.parametrize("dtype", numpy_numba.DTYPES)
named = pytest.mark.parametrize("variant", MANY.values(), ids=MANY)
several = pytest.mark.parametrize("variant", [MANY[name] for name in SEVERAL], ids=SEVERAL)


@pytest.fixture
def uneven(request, monkeypatch):
    """Parts begin one after the other, the last one first if it is said so; and what the forward kernel divides."""
    routes, first = set(), ["first"]
    code = numpy_numba._code(np.dtype(request.node.callspec.params["dtype"]))

    def wrap(kernel, forwards):
        def begin(*arguments):
            *_, across, _, part, parts = arguments
            time.sleep(0.001 * (part if first[0] == "first" else parts - 1 - part))
            if forwards:
                routes.add("alone" if parts == 1 else "units" if across else "rows")
            kernel(*arguments)

        return begin

    monkeypatch.setattr(code, "cell_forward", wrap(code.cell_forward, True))
    monkeypatch.setattr(code, "cell_backward", wrap(code.cell_backward, False))
    return routes, first


# N, T, D, H, P; and what two threads divide, where nothing is normalised.
DIVIDED = [
    ((1, 3, 2, 64, 17), "units"),
    ((2, 2, 3, 40, 1), "units"),
    ((3, 3, 2, 33, 40), "units"),
    ((9, 3, 2, 17, 5), "rows"),
    ((23, 2, 3, 3, 2), "rows"),
]


@pytest.mark.parametrize("first", ["first", "last"])
@pytest.mark.parametrize(("sizes", "route"), DIVIDED, ids=str)
@dtypes
@several
def test_bits_do_not_depend_on_threads(limited, eager, poisoned, uneven, variant, dtype, sizes, route, first):
    arrays, (routes, order) = typed(random_problem(variant, *sizes), dtype), uneven
    order[0] = first
    for steps in ({}, {"lengths": lengths_of(*sizes[:2]), "reverse": True}):
        limited(1)
        expected = numba_run(variant, arrays, **steps)
        assert all(np.all(np.isfinite(result)) for result in expected.values())
        for count in LIMITS:
            limited(count)
            routes.clear()
            assert_same(numba_run(variant, arrays, **steps), expected, f"with {count} threads")
            if count == 2:
                assert routes == {route if not variant.layer_norm else "rows" if sizes[0] > 4 else "alone"}


@named
def test_threads_meet_wherever_one_reads_what_another_wrote(limited, eager, poisoned, variant):
    """Many short steps, by units and by rows."""
    for sizes in ((2, 60, 3, 70, 9), (9, 30, 3, 17, 5)):
        arrays = typed(random_problem(variant, *sizes), "float32")
        limited(1)
        expected = numba_run(variant, arrays)
        for count in (2, 3):
            limited(count)
            assert_same(numba_run(variant, arrays), expected, f"with {count} threads")


@pytest.mark.parametrize("N", range(1, 10))
def test_any_number_of_rows(limited, eager, poisoned, N):
    """Rows that no number of threads divides; and those with lengths, of which some have ended."""
    for name in ("all", "all but layer norm"):
        arrays = typed(random_problem(MANY[name], N, 3, 2, 33, 5), "float64")
        for order in ({}, {"lengths": lengths_of(N, 3)}, {"lengths": [0] * N}, {"lengths": [*[1] * (N - 1), 3]}):
            limited(1)
            expected = numba_run(MANY[name], arrays, **order)
            for count in LIMITS:
                limited(count)
                assert_same(numba_run(MANY[name], arrays, **order), expected, f"with {count} threads")


@pytest.mark.parametrize("junk", [np.nan, np.inf])
@several
def test_what_lies_behind_lengths_is_not_seen(limited, eager, poisoned, variant, junk):
    """Of several vectors, however the work is divided; outputs and gradients are zero there."""
    N, T, lengths = 4, 5, [3, 0, 5, 1]
    behind = np.arange(T)[None, :] >= np.array(lengths)[:, None]
    values = typed(random_problem(variant, N, T, 3, 70, 33), "float32")
    filled = {name: value.copy() for name, value in values.items()}
    for name in {"x", "dy", "zoneout_h", "zoneout_c"} & filled.keys():
        filled[name][behind] = junk
    for count in (1, 2):
        limited(count)
        for reverse in (False, True):
            expected = numba_run(variant, values, lengths=lengths, reverse=reverse)
            results = numba_run(variant, filled, lengths=lengths, reverse=reverse)
            assert_same(results, expected)
            assert not any(np.any(results[name][behind]) for name in ("h", "dx"))
            assert all(np.all(np.isfinite(result)) for result in results.values())
            _, cache = forward(variant, filled, engine=NAME, lengths=np.array(lengths), reverse=reverse)
            for kept in (
                cache.gates,
                *([cache.cells] if variant.zoneout_c else []),
                *([cache.z] if variant.clip else []),
            ):
                assert not np.any(kept[behind])


@pytest.mark.parametrize("dtype", ["float32"])
def test_whoever_comes_while_the_pool_is_in_use_works_alone(limited, eager, uneven, dtype):
    arrays = typed(random_problem(MOST, 2, 3, 3, 64, 5), dtype)
    limited(3)
    expected = numba_run(MOST, arrays)
    uneven[0].clear()
    with threads.pool.free:
        assert_same(numba_run(MOST, arrays), expected)
    assert uneven[0] == {"alone"}


def test_callers_on_several_threads_get_what_each_gets_alone(limited, eager):
    """Of other sizes, too: the room that one leaves is another's."""
    names = ("all", "all but layer norm", "projection")
    problems = [(MANY[name], typed(random_problem(MANY[name], k + 2, 9, 3, 40 + k, 5), "float32"))
                for k, name in enumerate(names)]  # fmt: skip
    limited(2)
    expected = [numba_run(*problem) for problem in problems]
    together = threading.Barrier(4)

    def call(first):
        together.wait(PATIENCE)
        return [(k % 3, numba_run(*problems[k % 3])) for k in range(first, first + 6)]

    with ThreadPoolExecutor(4) as callers:
        for results in callers.map(call, range(4)):
            for k, result in results:
                assert_same(result, expected[k], f"of problem {k}")


# --- Two directions


def network_problem(N, T, D=4, H=40, **options):
    """A network of two directions and layers, and what it is called with."""
    network, rng = LSTM(D, H, num_layers=2, bidirectional=True, **options), np.random.default_rng(0)
    params, R = network.init(dtype=np.dtype("float32"), seed=1), network.output_size
    state = State(*(rng.standard_normal((4, N, size)).astype("float32") for size in (R, H)))
    x, dy = (rng.standard_normal((N, T, size)).astype("float32") for size in (D, 2 * R))
    return network, params, x, state, dy


def everything(network, params, x, state, dy, **options):
    y, last, cache = network.forward(params, x, state, **options)
    dx, dstate, dparams = network.backward(dy, cache, dstate=last)
    light, *_ = network.forward(params, x, state, training=False, **options)
    assert same_bits(light, y)
    return [y, *last, dx, *dstate, *(v for p in dparams for v in p if v is not None)]


@pytest.fixture
def pairs(monkeypatch):
    """On how many threads each kernel of a cell ran, of those that ran beside another."""
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

    monkeypatch.setattr(code, "cell_forward", wrap(code.cell_forward))
    monkeypatch.setattr(code, "cell_backward", wrap(code.cell_backward))
    return met


NETWORKS = [
    {"proj_size": 7, "peepholes": True, "clip": 2.0},
    {"layer_norm": True, "coupled": True},
    {"zoneout_h": 0.3, "zoneout_c": 0.2, "activations": ("HardSigmoid", "Softsign", "Elu")},
]
networks = pytest.mark.parametrize("options", NETWORKS, ids=lambda options: ", ".join(options))


@networks
def test_bits_do_not_depend_on_what_runs_at_the_same_time(limited, eager, options):
    for N, T in ((5, 9), (1, 20), (23, 4)):
        arguments = network_problem(N, T, **options)
        for lengths in (None, np.array(lengths_of(N, T))):
            limited(1)
            expected = everything(*arguments, lengths=lengths)
            for count in (2, 3, 4, 5):
                limited(count)
                found = everything(*arguments, lengths=lengths)
                assert all(map(same_bits, found, expected)), f"with {count} threads"


@networks
@pytest.mark.parametrize(("count", "each"), [(2, 1), (4, 2)])
def test_directions_run_at_the_same_time_on_half_of_the_threads(limited, eager, pairs, options, count, each):
    limited(count)
    everything(*network_problem(40, 5, **options))
    assert pairs == [each] * 12  # of two layers: forwards, backwards, and forwards without training


# --- Denormal numbers


@pytest.mark.parametrize("sizes", [(1, 9, 5, 64, 3), (9, 4, 5, 33, 7)], ids=str)
def test_denormals_are_computed_again_after_each_call(limited, eager, sizes):
    """Kernels have zeros for them; who else works in a thread is not to notice."""
    limited(2)
    seen = []

    def work():
        for name in ("all", "all but layer norm"):
            arrays = typed(random_problem(MANY[name], *sizes), "float32")
            _, cache = forward(MANY[name], arrays, engine=NAME)
            seen.append(denormals())
            backward(arrays, cache)
            seen.append(denormals())
            forward(MANY[name], arrays, engine=NAME, keep=False, lengths=[0] * sizes[0])
            seen.append(denormals())
            numpy_numba.product(arrays["Wh"], arrays["Wh"].T)
            seen.append(denormals())

    work()
    with ThreadPoolExecutor(1) as executor:
        executor.submit(work).result()
    threads.pool.run(lambda *share: seen.append(denormals()), 2)
    assert seen == [True] * 18
