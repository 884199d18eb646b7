"""Times by events, in alternating rounds."""

import gc
from time import perf_counter

from ..timing import FEWEST_CALLS
from ..worker import one_line


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
    timed. Who fails once takes part no more.
    """
    taken, failures = {name: [] for name in calls}, {}
    queue = list(calls)
    gc.collect()
    gc.disable()
    try:
        for name in queue:
            _try(name, lambda name=name: times(calls[name], place, 0, 1), failures, place)
        for _ in range(rounds):
            for name in (name for name in queue if name not in failures):
                found = _try(name, lambda name=name: times(calls[name], place, seconds), failures, place)
                if found:
                    taken[name].append(found)
            queue = queue[1:] + queue[:1]
    finally:
        gc.enable()
    return {name: found for name, found in taken.items() if name not in failures}, failures


def _try(name, work, failures, place):
    try:
        return work()
    except Exception as error:
        failures[name] = one_line(error)
        if place.broken(error):
            raise
