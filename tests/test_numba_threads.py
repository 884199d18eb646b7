"""Threads of the compiled engine: the same bits for any number of them, and a pool that nothing puts out of step."""

import faulthandler
import signal
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from problems import forward, given, host, random_problem, run, same_bits

from lstm_xp import LSTM, Direction, State
from lstm_xp.engines import numpy_numba

pytest.importorskip("numba")
if numpy_numba.obstacle():
    pytest.skip(numpy_numba.obstacle(), allow_module_level=True)

from numba import njit

from lstm_xp.engines.compiled import threads
from lstm_xp.engines.compiled.meeting import ARRIVED, add, look, sleep
from lstm_xp.engines.compiled.products import FEW_ROWS, STREAMS, share
from lstm_xp.engines.compiled.steps import AWAKE, DEEP, DONE, RESTS, SHARED, TAKEN, piece_at, sums_of

NAME = numpy_numba.name
LIMITS = (1, 2, 3, 5)
# Seconds after which threads are taken to wait for each other for ever.
PATIENCE = 120
dtypes = pytest.mark.parametrize("dtype", numpy_numba.DTYPES)


@pytest.fixture(autouse=True)
def deadlocks_fail():
    """Threads that wait for each other hold no lock of Python's: only the end of the process ends them."""
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def uneven(request, monkeypatch):
    """Parts begin one after the other, the last one first if it is said so; and what routes they take."""
    routes, first = set(), ["first"]
    code = numpy_numba._code(np.dtype(request.node.callspec.params["dtype"]))

    def wrap(kernel):
        def begin(*arguments):
            *_, across, _, part, parts = arguments
            time.sleep(0.004 * (part if first[0] == "first" else parts - 1 - part))
            routes.add("alone" if parts == 1 else "units" if across else "rows")
            kernel(*arguments)

        return begin

    monkeypatch.setattr(code, "forward", wrap(code.forward))
    monkeypatch.setattr(code, "backward", wrap(code.backward))
    return routes, first


def problem(library, dtype, N, T, D, H, seed=0):
    return given(library("numpy"), random_problem(N, T, D, H, seed), dtype)


def numba_run(arrays, **options):
    return host(run(arrays, engine=NAME, **options))


def assert_same_bits(results, expected, what=""):
    for name, result in results.items():
        assert same_bits(result, expected[name]), f"{name} {what}"


# --- The same bits

# Where sizes go (before the comma), and why: few rows, or large weights.
ROUTES = {
    "alone": (9, 4, 5, 17),
    "rows": (40, 50, 7, 33),
    "units": (5, 4, 7, 320),
    "units, of large weights": (21, 2, 3, 396),
    "rows, for so many": (90, 2, 3, 396),
}


@pytest.mark.parametrize("route", ROUTES)
@dtypes
def test_bits_do_not_depend_on_threads(library, limited, uneven, dtype, route):
    """Each way to divide the work, as it is chosen by size; twice."""
    arrays = problem(library, dtype, *ROUTES[route])
    limited(1)
    expected = numba_run(arrays)
    for count in LIMITS:
        limited(count)
        uneven[0].clear()
        for _ in range(2):
            assert_same_bits(numba_run(arrays), expected, f"with {count} threads")
        assert uneven[0] == {route.partition(",")[0] if count > 1 else "alone"}


@pytest.mark.parametrize("route", ["rows", "units"])
@dtypes
def test_threads_that_divide_rows_do_not_meet_after_every_step(library, limited, dtype, route):
    """The backward kernel, which is the last to run: it meets once before all steps, and twice for their products."""
    limited(2)
    arrays = problem(library, dtype, *ROUTES[route])
    numba_run(arrays)
    T, meetings = ROUTES[route][1], threads.pool.meeting[ARRIVED] // 2
    assert meetings < T if route == "rows" else meetings > T


SIZES = [(1, 3, 2, 1), (2, 3, 3, 64), (5, 4, 2, 192), (3, 2, 5, 320), (23, 3, 3, 5), (9, 3, 70, 68), (7, 2, 33, 33)]


@pytest.mark.parametrize("order", ["first", "last"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@dtypes
def test_bits_do_not_depend_on_how_few_steps_rows_or_units_a_thread_has(
    library, limited, eager, poisoned, uneven, dtype, sizes, order
):
    arrays = problem(library, dtype, *sizes)
    uneven[1][0] = order
    limited(1)
    expected = numba_run(arrays)
    assert all(np.all(np.isfinite(result)) for result in expected.values())
    for count in LIMITS[1:]:
        limited(count)
        assert_same_bits(numba_run(arrays), expected, f"with {count} threads")
        light = numba_run(arrays, training=False)
        assert_same_bits(light, expected, f"with {count} threads, without training")


@pytest.mark.parametrize("order", ["first", "last"])
@pytest.mark.parametrize("sizes", [(23, 5, 3, 68), (9, 40, 3, 192)], ids=str)
@dtypes
def test_many_rows_of_large_weights(library, limited, eager, poisoned, uneven, monkeypatch, dtype, sizes, order):
    """Threads divide the units, in training and without."""
    monkeypatch.setattr(numpy_numba, "LARGE", 0)
    monkeypatch.setattr(numpy_numba, "BYTES_A_ROW", 1)
    arrays = problem(library, dtype, *sizes)
    uneven[1][0] = order
    limited(1)
    expected = numba_run(arrays)
    for count in (2, 3):
        limited(count)
        uneven[0].clear()
        assert_same_bits(numba_run(arrays), expected, f"with {count} threads")
        assert_same_bits(numba_run(arrays, training=False), expected, f"with {count} threads, without training")
        assert uneven[0] == {"units"}


ALONE, TWO = (False, 1), (False, 2)


@pytest.mark.parametrize(
    ("sizes", "threads", "expected"),
    [
        # T, N, D, H: work that is worth a second thread, or not, or several; of one row half as much.
        ((100, 8, 64, 16), 8, ALONE),
        ((150, 8, 64, 16), 8, (False, 2)),
        ((10_000, 8, 16, 64), 8, (False, 2)),
        ((10_000, 80, 16, 64), 8, (False, 8)),
        ((35, 2, 1, 112), 2, ALONE),
        ((36, 2, 1, 112), 2, (True, 2)),
        ((35, 1, 1, 112), 2, ALONE),
        # Few rows: the units of steps that are worth a meeting, by as many as each step is worth, and as have units.
        ((1000, 1, 1, 111), 8, ALONE),
        ((1000, 1, 1, 112), 8, (True, 2)),
        ((1000, 1, 1, 224), 8, (True, 5)),
        ((1000, 4, 1, 1024), 80, (True, 64)),
        ((1000, 5, 1, 96), 2, TWO),
        ((1000, 5, 1, 104), 2, (True, 2)),
        ((1000, 8, 1, 200), 2, TWO),
        ((1000, 8, 1, 200), 4, (True, 4)),
        ((1000, 28, 1, 64), 8, (False, 7)),
        # Many rows: the units of large weights.
        ((100, 8, 1, 256), 2, TWO),
        ((100, 8, 1, 257), 2, (True, 2)),
        ((100, 17, 1, 260), 2, TWO),
        ((100, 32, 1, 512), 2, (True, 2)),
        ((100, 33, 1, 512), 2, TWO),
    ],
    ids=str,
)
def test_how_work_is_divided(sizes, threads, expected):
    code = SimpleNamespace(threads=lambda: threads, lanes=16, dtype=np.dtype("float32"))
    T, N, D, H = sizes
    assert numpy_numba._divide(code, T, N, D, H) == expected


@dtypes
def test_threads_meet_after_every_step(library, limited, eager, poisoned, dtype):
    """Many short steps, unequal parts: a thread that did not wait would read what is not there yet."""
    arrays = problem(library, dtype, 2, 200, 3, 192)
    limited(1)
    expected = numba_run(arrays)
    limited(2)
    for _ in range(5):
        assert_same_bits(numba_run(arrays), expected)


@pytest.mark.parametrize("sizes", [(1, 700, 299, 40), (40, 60, 5, 129), (601, 3, 300, 8), (3, 500, 130, 33)], ids=str)
@dtypes
def test_products_of_gradients_do_not_depend_on_threads(library, limited, eager, poisoned, dtype, sizes):
    """More steps and rows than are taken at a time; x and units that are divided, or too few for that."""
    arrays = problem(library, dtype, *sizes)
    limited(1)
    expected = numba_run(arrays)
    for count in LIMITS[1:]:
        limited(count)
        assert_same_bits(numba_run(arrays), expected, f"with {count} threads")


@pytest.mark.parametrize("sizes", [(1, 420, 320), (7, 3, 192), (13, 33, 64)], ids=str)
@dtypes
def test_steps_do_not_depend_on_threads(limited, eager, poisoned, dtype, sizes):
    N, D, H = sizes
    values = random_problem(N, 1, D, H)
    values["x"] = values["x"][:, 0]
    arguments = [values[name].astype(dtype) for name in ("x", "h0", "c0", "Wx", "Wh", "b")]
    limited(1)
    expected = numpy_numba.step(*arguments)
    for count in LIMITS[1:]:
        limited(count)
        for result, alone in zip(numpy_numba.step(*arguments), expected, strict=True):
            assert same_bits(result, alone), count


# --- The helper of a stream

# Large enough for one; and larger, for which it is called before the step begins.
LARGE = [(100, 256), (200, 512)]


@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_each_piece_of_a_step_is_done_once_and_what_was_read_last_comes_first(pieces):
    for stopped in range(pieces + 1):  # where the stream's own thread did, and its helper

        def order(turn, middle=stopped):
            return [piece_at.py_func(place, pieces, middle, turn) for place in range(pieces)]

        there, back = order(0), order(1)
        assert sorted(there) == sorted(back) == list(range(pieces))
        assert back[:stopped] == there[:stopped][::-1]
        assert back[stopped:] == there[stopped:][::-1]


@pytest.mark.parametrize("N", [1, 2, 3])
@pytest.mark.parametrize("H", [1, 33, 256, 1024, 40000])
@pytest.mark.parametrize("D", [1, 300, 70000])
def test_every_sum_of_a_step_has_rows_and_all_rows_are_in_one(N, D, H):
    pieces, sums = sums_of.py_func(N, D, H)
    ranges = [share.py_func(D + H, STREAMS, place, pieces * sums) for place in range(pieces * sums)]
    assert [first for first, _ in ranges] == [0] + [last for _, last in ranges[:-1]]
    assert ranges[-1][1] == D + H
    assert all(first < last for first, last in ranges)
    if N <= FEW_ROWS:
        assert all(last - first <= DEEP for first, last in ranges)


def streamed(dtype, sizes, steps=300):
    """The last output and state of a stream; how many of its steps were shared, and pieces of them done by a helper."""
    code, network, rng = numpy_numba._code(np.dtype(dtype)), LSTM(*sizes, engine=NAME), np.random.default_rng(0)
    params, x = network.init(seed=1, dtype=np.dtype(dtype)), rng.standard_normal((steps, 1, sizes[0])).astype(dtype)
    state, shared, done = State(*(np.zeros((1, 1, sizes[1]), dtype) for _ in range(2))), 0, 0
    for x_t in x:
        before = code.desk[SHARED]
        y, state = network.step(params, x_t, state)
        if code.desk[SHARED] > before:
            shared, done = shared + 1, done + code.desk[DONE]
    return (y, *state), shared, done


def asleep(dtype):
    """Wait until the helper is."""
    desk, end = numpy_numba._code(np.dtype(dtype)).desk, time.monotonic() + PATIENCE / 2
    while desk[AWAKE] and time.monotonic() < end:
        time.sleep(0.001)
    assert not desk[AWAKE]


@pytest.fixture
def rested(request):
    """The desk: no helper awake from before, and none that has to rest; nor afterwards."""
    dtype = request.node.callspec.params["dtype"]
    desk = numpy_numba._code(np.dtype(dtype)).desk
    asleep(dtype)
    desk[RESTS] = desk[DONE] = 0
    yield desk
    desk[AWAKE] = desk[RESTS] = 0


@pytest.mark.parametrize("sizes", LARGE, ids=str)
@dtypes
def test_a_helper_changes_no_bit(limited, rested, dtype, sizes):
    """One that is awake all the time: how long Python takes to wake it depends on what else the machine does."""
    limited(1)
    alone, shared, done = streamed(dtype, sizes)
    assert shared == 300 * (sizes == LARGE[1])  # called, in vain
    assert done == 0
    code, ended = numpy_numba._code(np.dtype(dtype)), threading.Event()

    def attend():
        while not ended.is_set():
            code.attend(rested, np.empty(0, dtype))

    helper = threading.Thread(target=attend)
    helper.start()
    try:
        while not rested[AWAKE]:
            time.sleep(0.001)
        runs = 0
        while runs < 5 or done == 0:
            rested[RESTS] = 0
            together, _, pieces = streamed(dtype, sizes)
            runs, done = runs + 1, done + pieces
            assert all(map(same_bits, together, alone))
    finally:
        ended.set()
        helper.join()


def test_a_helper_is_woken_whenever_it_is_wanted(limited):
    done = threading.Semaphore(0)
    helper = threads.Helper(done.release, lambda: None)
    limited(1)
    helper.wake()
    assert helper.thread is None
    limited(2)
    for _ in range(3):
        helper.wake()
        assert done.acquire(timeout=PATIENCE / 2)


@pytest.mark.parametrize("sizes", LARGE, ids=str)
@dtypes
def test_a_helper_that_does_not_come_is_not_waited_for(limited, rested, dtype, sizes):
    limited(1)
    alone, *_ = streamed(dtype, sizes, 20)
    rested[AWAKE] = 1
    together, shared, done = streamed(dtype, sizes, 20)
    assert shared > 0
    assert done == 0
    assert all(map(same_bits, together, alone))


@dtypes
def test_a_helper_that_takes_nothing_rests(limited, rested, dtype):
    """For so many flop of steps that are large enough for one."""
    limited(1)
    rested[AWAKE] = 1
    _, shared, _ = streamed(dtype, LARGE[0], 20)
    assert shared == 1
    left = rested[RESTS]
    assert left > 0
    streamed(dtype, (3, 16), 20)
    assert rested[RESTS] == left
    _, shared, _ = streamed(dtype, LARGE[0], 200)
    assert 1 < shared < 20


@njit(nogil=True)
def take_a_piece_and_nap(desk):
    while True:
        if look(desk, TAKEN) < 0 and add(desk, TAKEN) < 0:
            for _ in range(100_000):  # some seconds, at most
                sleep()
                if look(desk, RESTS) > 0:
                    break
            add(desk, DONE)
            return


@dtypes
def test_a_helper_that_is_slow_rests(limited, rested, dtype):
    """It takes a piece, and is at it for so long that its processor must have something else to do."""
    limited(1)
    rested[AWAKE] = 1

    other = threading.Thread(target=take_a_piece_and_nap, args=(rested,))
    other.start()
    while not rested[DONE]:
        rested[AWAKE], rested[RESTS] = 1, 0
        streamed(dtype, LARGE[0], 1)
    other.join()
    assert rested[RESTS]
    _, shared, _ = streamed(dtype, LARGE[0], 20)
    assert shared == 0


@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize("sizes", LARGE, ids=str)
@dtypes
def test_several_streams_with_one_helper(limited, rested, dtype, sizes, limit):
    limited(1)
    alone, *_ = streamed(dtype, sizes)
    limited(limit)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # each is interrupted wherever it can be
    try:
        with ThreadPoolExecutor(4) as callers:
            for together, *_ in callers.map(lambda _: streamed(dtype, sizes), range(8)):
                assert all(map(same_bits, together, alone))
    finally:
        sys.setswitchinterval(interval)


# --- Several callers


@dtypes
def test_whoever_comes_while_the_pool_is_in_use_works_alone(library, limited, uneven, dtype):
    arrays = problem(library, dtype, *ROUTES["units"])
    limited(3)
    expected = numba_run(arrays)
    uneven[0].clear()
    with threads.pool.free:
        assert_same_bits(numba_run(arrays), expected)
    assert uneven[0] == {"alone"}


@dtypes
def test_callers_on_several_threads_get_what_each_gets_alone(library, limited, eager, dtype):
    sizes = [(5, 30, 7, 64), (23, 30, 5, 33), (2, 20, 9, 192)]
    problems = [problem(library, dtype, *each, seed=seed) for seed, each in enumerate(sizes)]
    limited(2)
    expected = [numba_run(arrays) for arrays in problems]
    together = threading.Barrier(4)

    def call(first):
        together.wait()
        order = [(first + k) % len(problems) for k in range(2 * len(problems))]
        return [(k, numba_run(problems[k])) for k in order]

    with ThreadPoolExecutor(4) as callers:
        for results in callers.map(call, range(4)):
            for k, result in results:
                assert_same_bits(result, expected[k], f"of problem {k}")


# --- The pool


@pytest.fixture
def pool():
    return threads.Pool()


def test_every_part_is_done_once_and_on_a_thread_of_its_own(pool):
    for parts in (1, 3, 2, 5, 1):
        seen, barrier = [], threading.Barrier(parts)

        def work(meeting, part, parts, seen=seen, barrier=barrier):
            barrier.wait(PATIENCE / 2)
            seen.append((part, parts, threading.get_ident()))

        pool.run(work, parts)
        assert sorted(part for part, _, _ in seen) == list(range(parts))
        assert {given for _, given, _ in seen} == {parts}
        assert len({thread for *_, thread in seen}) == parts
        assert (0, parts, threading.get_ident()) in seen
    assert len(pool.workers) == 4


def test_nothing_of_the_caller_is_kept(pool):
    class Thing:
        pass

    thing = Thing()
    gone = weakref.ref(thing)
    pool.run(lambda meeting, part, parts, thing=thing: None, 3)
    del thing
    until = time.monotonic() + 5
    while gone() is not None and time.monotonic() < until:
        time.sleep(0.01)
    assert gone() is None


def test_where_no_thread_can_be_had_the_caller_works_alone(pool, monkeypatch):
    def none(thread):
        raise RuntimeError("can't start new thread")

    seen = []
    monkeypatch.setattr(threading.Thread, "start", none)
    for _ in range(2):
        pool.run(lambda meeting, part, parts: seen.append((part, parts)), 3)
    assert seen == [(0, 1)] * 2
    monkeypatch.undo()
    pool.run(lambda meeting, part, parts: seen.append((part, parts)), 3)
    assert sorted(seen[2:]) == [(0, 3), (1, 3), (2, 3)]


class Failure(Exception):
    pass


def in_step(pool):
    """Whether the pool still returns when all parts are done, and no sooner: five calls."""
    for _ in range(5):
        seen = []

        def work(meeting, part, parts, seen=seen):
            time.sleep(0.02 * part)
            seen.append(part)

        pool.run(work, 3)
        if sorted(seen) != [0, 1, 2]:
            return False
    return True


@pytest.mark.parametrize("failing", [0, 1, 2])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_part_that_fails_is_reported_and_the_pool_stays_in_step(pool, failing):
    ended = []

    def work(meeting, part, parts):
        if part == failing:
            raise Failure
        time.sleep(0.1)
        ended.append(part)

    with pytest.raises(Failure):
        pool.run(work, 3)
    assert in_step(pool)
    assert len(ended) == 2


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers that send signals")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("busy", ["caller", "workers"])
def test_an_interrupt_leaves_the_pool_in_step(pool, busy):
    """Ctrl-C while a call computes, as in a notebook: the next call must not take its leftovers for its own."""

    def interrupt(*_):
        raise KeyboardInterrupt

    def work(meeting, part, parts):
        time.sleep(0.3 if (part == 0) == (busy == "caller") else 0.2 if part else 0)

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            pool.run(work, 3)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert in_step(pool)


# --- Limits


def test_the_least_of_the_limits_counts(monkeypatch):
    threadpoolctl = pytest.importorskip("threadpoolctl")
    monkeypatch.setattr(threads.config, "NUMBA_NUM_THREADS", 3)
    for count in (1, 2, 4):
        with threadpoolctl.threadpool_limits(count, user_api="blas"):
            allowed = {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"}
            assert threads.limit() == min(3, *allowed)
            if count == 1:
                assert threads.limit() == 1


def test_a_blas_that_does_not_tell_sets_no_limit(monkeypatch):
    """threadpoolctl gives None for one that lacks the function it asks."""
    monkeypatch.setattr(threads, "_blas", lambda: (SimpleNamespace(get_num_threads=lambda: None),))
    monkeypatch.setattr(threads.config, "NUMBA_NUM_THREADS", 3)
    assert threads.limit() == 3


@dtypes
def test_no_more_threads_are_started_than_are_allowed(library, limited, eager, monkeypatch, dtype):
    """Whatever the problem: the caller is one of them."""
    pool = threads.Pool()
    monkeypatch.setattr(threads, "ALL", threads.ALL._replace(pool=pool))
    for count in LIMITS:
        limited(count)
        before = threading.active_count(), len(pool.workers)
        for sizes in ROUTES.values():
            numba_run(problem(library, dtype, *sizes))
        assert len(pool.workers) == count - 1
        assert threading.active_count() - before[0] == len(pool.workers) - before[1]


# --- Denormal numbers


def denormals():
    """Whether this thread computes them."""
    return bool(np.all(np.full(64, np.finfo("float32").tiny) * np.float32(0.25) > 0))


@pytest.mark.parametrize("size", [(1, 9, 5, 64), (2, 3, 5, 6), (7, 9, 5, 33)], ids=str)
def test_denormals_are_computed_again_after_each_call(limited, eager, size):
    """Kernels have zeros for them; who else works in a thread is not to notice."""
    limited(2)
    arrays = {name: value.astype("float32") for name, value in random_problem(*size).items()}
    network, params = LSTM(size[2], size[3]), (Direction(*(arrays[name] for name in ("Wx", "Wh", "b"))),)
    seen = []

    def work():
        state = State(arrays["h0"][None], arrays["c0"][None])
        for call in (
            lambda: forward(arrays, engine=NAME, training=False),
            lambda: run(arrays, engine=NAME),
            lambda: network.step(params, arrays["x"][:, 0], state),
        ):
            call()
            seen.append(denormals())

    work()
    with ThreadPoolExecutor(1) as executor:
        executor.submit(work).result()
    threads.pool.run(lambda *share: seen.append(denormals()), 2)
    assert seen == [True] * 8
