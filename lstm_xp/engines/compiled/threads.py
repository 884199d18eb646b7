"""A pool of threads for compiled work: one call at a time has it, whoever comes meanwhile works alone."""

import os
from functools import cache
from threading import Lock, Thread

from numba import config


class Worker:
    """A thread that does one piece of work at a time: two locks, because a queue of futures takes twice as long."""

    def __init__(self):
        self.todo, self.done, self.work, self.error = Lock(), Lock(), None, None
        self.todo.acquire()
        self.done.acquire()
        Thread(target=self.serve, name="lstm_xp", daemon=True).start()

    def start(self, work):
        """Begin."""
        self.work = work
        self.todo.release()

    def finish(self):
        """Wait for the end."""
        self.done.acquire()
        error, self.error = self.error, None
        if error:
            raise error

    def serve(self):
        while True:
            self.todo.acquire()
            try:
                self.work()
            except BaseException as error:
                self.error = error
            self.work = None  # arrays belong to the caller again
            self.done.release()


class Pool:
    """Workers that start with the first call that wants them, and again in a forked child."""

    def __init__(self):
        self.forget()

    def forget(self):
        """In a forked child: the parent's threads are not here, and its lock may be held for ever."""
        self.free, self.workers = Lock(), []

    def run(self, work, parts):
        """work(part, parts) for every part, on a thread each; on the caller's alone where the pool is in use.

        Parts may wait for each other: all of them run at once, or there is one.
        """
        if parts == 1 or not self.free.acquire(blocking=False):
            return work(0, 1)
        try:
            while len(self.workers) < parts - 1:
                self.workers.append(Worker())
        except RuntimeError:  # the system gives no more threads, or the interpreter is ending
            self.free.release()
            return work(0, 1)
        try:
            others = self.workers[: parts - 1]
            for part, worker in enumerate(others, start=1):
                worker.start(lambda part=part: work(part, parts))
            work(0, parts)
            for worker in others:
                worker.finish()
        finally:
            self.free.release()


def limit():
    """How many threads the user allows: the least of numba's setting, the processors of this process, and the BLAS's.

    The BLAS's, because that is what `threadpoolctl` and OPENBLAS_NUM_THREADS set, and what lstm_xp would use otherwise.
    """
    return max(1, min([config.NUMBA_NUM_THREADS, *(pool.get_num_threads() for pool in _blas())]))


@cache
def _blas():
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return ()
    return tuple(ThreadpoolController().select(user_api="blas").lib_controllers)


pool = Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=pool.forget)
