"""How a call is timed."""

import gc
from time import perf_counter

# At least so many calls are timed, however long one takes.
FEWEST_CALLS = 2


def times(call, seconds):
    """Seconds that each of many calls took, in about `seconds`, after a warm-up of a quarter of that.

    The warm-up keeps first-call costs out (imports, compilation, caches, clock frequency); in it, the threads of the
    process that was measured before, which spin a while for more work, go to sleep. A result is dropped within its
    call's time: giving back memory belongs to the work, as fetching it does.
    """
    gc.collect()
    gc.disable()
    try:
        _repeat(call, seconds / 4, 1)
        return _repeat(call, seconds, FEWEST_CALLS)
    finally:
        gc.enable()


def _repeat(call, seconds, fewest):
    taken = []
    end = perf_counter() + seconds
    while len(taken) < fewest or perf_counter() < end:
        start = perf_counter()
        call()
        taken.append(perf_counter() - start)
    return taken
