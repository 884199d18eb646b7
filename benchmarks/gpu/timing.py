"""Times by events, in alternating rounds."""

import gc
from time import perf_counter

from ..timing import FEWEST_CALLS
from ..worker import one_line

# Who takes longer than this for one call has one call in each round; than that, its warm-up is all there is.
SLOW, HOPELESS = 0.03, 0.2


def times(call, place, seconds, fewest=FEWEST_CALLS):
    """Seconds between an event before each of many calls and one after it, each call waited for.

    So what the processor takes to launch is in it, where the device waits for that.
    """
    start, stop = place.events()
    taken, end = [], perf_counter() + seconds
    while len(taken) < fewest or perf_counter() < end:
        start.record()
        result = call()
        stop.record()
        stop.synchronize()
        taken.append(place.between(start, stop))
        del result
    return taken


def in_rounds(calls, place, rounds, seconds):
    """Times of several calls by name, in rounds whose order turns by one place; and why some have none.

    The first call of each is a warm-up of its own, before all rounds: what it compiles, captures and allocates is not
    timed, unless it takes so long that this is nothing beside it. Who fails once takes part no more.
    """
    taken, failures, fewest = {name: [] for name in calls}, {}, {}
    queue = list(calls)

    def turn(name, seconds, fewest):
        try:
            return times(calls[name], place, seconds, fewest)
        except Exception as error:
            failures[name] = one_line(error)
            if place.broken(error):
                raise

    gc.collect()
    gc.disable()
    try:
        for name in queue:
            warm = turn(name, 0, 1)
            if warm and warm[0] > HOPELESS:
                taken[name].append(warm)
            elif warm:
                fewest[name] = 1 if warm[0] > SLOW else FEWEST_CALLS
        for _ in range(rounds):
            for name in (name for name in queue if name in fewest and name not in failures):
                if found := turn(name, seconds, fewest[name]):
                    taken[name].append(found)
            queue = queue[1:] + queue[:1]
    finally:
        gc.enable()
    return {name: found for name, found in taken.items() if name not in failures}, failures
