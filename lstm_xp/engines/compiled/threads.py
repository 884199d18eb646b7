"""Threads for compiled work: a pool that one call at a time has, and two for two calls that run at the same time.

Whoever comes while a pool is in use works alone.
"""

import os
from contextlib import suppress
from contextvars import ContextVar, copy_context
from functools import cache
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import NamedTuple

import numpy as np
from numba import config

from .meeting import ARRIVED, DONE, call_off, listen, new_meeting, ring, see_off

# Of one part, which waits for nobody.
ALONE = new_meeting()


class Worker:
    """A thread that does one piece of work after another, until it is given None."""

    def __init__(self, meeting):
        self.meeting, self.todo, self.error = meeting, SimpleQueue(), None
        Thread(target=self.serve, name="lstm_xp", daemon=True).start()

    def serve(self):
        while work := self.todo.get():
            try:
                work()
            except BaseException as error:
                self.error = error
                call_off(self.meeting)
            del work  # arrays belong to the caller again
            listen(self.meeting)


class Helper:
    """A thread that does `work` in compiled code whenever it was woken, until that ends by itself."""

    def __init__(self, work, reset):
        self.work, self.reset = work, reset
        self.wanted, self.free, self.thread = Event(), Lock(), None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.forget)

    def forget(self):
        """In a forked child: the parent's thread is not here, nor whoever shared work with it."""
        self.wanted, self.free, self.thread = Event(), Lock(), None
        self.reset()

    def wake(self):
        """If the user allows a second thread, and the system gives one."""
        if limit() < 2:
            return
        self.wanted.set()
        with self.free:
            if self.thread is None:
                thread = Thread(target=self.serve, name="lstm_xp helper", daemon=True)
                with suppress(RuntimeError):
                    thread.start()
                    self.thread = thread

    def serve(self):
        while self.wanted.wait():
            self.wanted.clear()
            self.work()


class Pool:
    """Workers that start with the first call that wants them, and again in a forked child."""

    def __init__(self):
        self.forget()

    def forget(self):
        """In a forked child: the parent's threads are not here, and its lock may be held for ever."""
        self.free, self.workers, self.meeting = Lock(), [], new_meeting()

    def run(self, work, parts):
        """work(meeting, part, parts) for every part, on a thread each; on the caller's alone where the pool is in use.

        Parts may wait for each other: all of them run at once, or there is one. Work that rings the bell of the meeting
        finds workers awake that had something to do shortly before.
        """
        if parts == 1 or not self.free.acquire(blocking=False):
            return work(team().alone, 0, 1)
        try:
            self._together(work, parts)
        except BaseException:  # an error of one part, or Ctrl-C: the others end by themselves, and serve no more
            call_off(self.meeting)
            for worker in self.workers:
                worker.todo.put(None)
            self.workers, self.meeting = [], new_meeting()
            raise
        finally:
            self.free.release()

    def _together(self, work, parts):
        try:
            while len(self.workers) < parts - 1:
                self.workers.append(Worker(self.meeting))
        except RuntimeError:  # the system gives no more threads, or the interpreter is ending
            return work(team().alone, 0, 1)
        meeting, others = self.meeting, self.workers[: parts - 1]
        meeting[ARRIVED] = meeting[DONE] = 0
        for part, worker in enumerate(others, start=1):
            worker.todo.put(lambda part=part: work(meeting, part, parts))
        work(meeting, 0, parts)
        see_off(meeting, parts - 1)
        for worker in others:
            if worker.error:
                raise worker.error


pool, halves = Pool(), (Pool(), Pool())
if hasattr(os, "register_at_fork"):
    for _pool in (pool, *halves):
        os.register_at_fork(after_in_child=_pool.forget)


class Team(NamedTuple):
    """What a call runs on: how many threads at most, their pool, and the meeting of work of one part."""

    most: int | None
    pool: Pool
    alone: np.ndarray


# All threads; or, in the context of a call beside another one, half of them.
ALL = Team(None, pool, ALONE)
_team = ContextVar("team")


def team():
    """The `Team` of the call that is running."""
    return _team.get(ALL)


def limit():
    """How many threads the user allows: the least of numba's setting, the processors of this process, and the BLAS's.

    The BLAS's, because that is what `threadpoolctl` and OPENBLAS_NUM_THREADS set, and what lstm_xp would use otherwise.
    Half of them in a call beside another one.
    """
    most = team().most
    return most or max(1, min([config.NUMBA_NUM_THREADS, *filter(None, (pool.get_num_threads() for pool in _blas()))]))


def both(*calls):
    """What two calls return, which run at the same time, each on half of the threads, and each in the caller's context.

    The other thread needs Python before its kernel: it is woken where the caller can do without, in its own kernel,
    which rings the bell of its meeting.
    """
    half, results = limit() // 2, [None, None]
    contexts = copy_context(), copy_context()  # NumPy's errstate is in there

    def work(meeting, part, parts):
        if parts == 1:
            results[:] = (call() for call in calls)
            return
        waking = part == 0 and half == 1
        if part == 0 and not waking:
            ring(meeting)  # its kernel has another meeting
        contexts[part].run(_team.set, Team(half, halves[part], meeting if waking else ALONE))
        results[part] = contexts[part].run(calls[part])

    team().pool.run(work, 2 if half else 1)
    return results


@cache
def _blas():
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return ()
    return tuple(ThreadpoolController().select(user_api="blas").lib_controllers)
