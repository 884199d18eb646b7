"""How a call is timed."""

import gc
from time import perf_counter, process_time, sleep

# At least so many calls are timed, however long one takes.
FEWEST_CALLS = 2
# Seconds between looks at whether a process rests, the share of them in which it may still work, and how long at most.
LOOK, RESTING, PATIENCE = 0.02, 0.05, 2.0


def times(call, seconds):
    """Seconds that each of many calls took, in about `seconds`, after a warm-up of a quarter of that.

    The warm-up keeps first-call costs out (imports, compilation, caches, clock frequency). A result is dropped within
    its call's time: giving back memory belongs to the work, as fetching it does. It returns when this process rests.
    """
    gc.collect()
    gc.disable()
    try:
        _repeat(call, seconds / 4, 1)
        return _repeat(call, seconds, FEWEST_CALLS)
    finally:
        gc.enable()
        rest()


def rest():
    """Wait until all threads of this process sleep, PATIENCE seconds at most.

    Those of many libraries (OpenBLAS, OpenMP, ONNX Runtime) spin for up to a tenth of a second in case there is more to
    do, and would take a processor from whoever has its turn next.
    """
    end = perf_counter() + PATIENCE
    worked = LOOK
    while worked > RESTING * LOOK and perf_counter() < end:
        before = process_time()
        sleep(LOOK)
        worked = process_time() - before


def _repeat(call, seconds, fewest):
    taken = []
    end = perf_counter() + seconds
    while len(taken) < fewest or perf_counter() < end:
        start = perf_counter()
        call()
        taken.append(perf_counter() - start)
    return taken
