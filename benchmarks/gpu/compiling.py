"""Compile ahead, in as many processes as there are cores: what takes a second when it is used first lies on disk then.

The engines' kernels are compiled one by one; CuPy's own, for the arithmetic of arrays, by a small problem with each
engine in each kind of numbers. All of them come into CuPy's cache, where every later process finds them.
"""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from time import perf_counter

from lstm_xp import engines
from lstm_xp.engines.cuda import cluster_plan, grid, grid_plan, kernels, plan, pointwise, replay

from ..worker import one_line
from . import correctness, sizes
from .places import open_place

MOST_PROCESSES = 16
# Small, with steps enough for a graph of launches.
SIZE = (9, 12, 3, 24)


def units(place):
    return [{}]


def run(unit, place):
    """A record that counts, and one for each task that failed."""
    start, cores = perf_counter(), len(os.sched_getaffinity(0))
    todo = tasks(place)
    context = multiprocessing.get_context("spawn")  # a CUDA context does not survive a fork
    with ProcessPoolExecutor(min(cores, MOST_PROCESSES, len(todo)), context) as pool:
        reasons = list(pool.map(do, todo))
    failed = [{"task": task, "failed": reason} for task, reason in zip(todo, reasons, strict=True) if reason]
    return [{"tasks": len(todo), "cores": cores, "seconds": perf_counter() - start}, *failed]


def tasks(place):
    """What each process is asked for, the longest first: small problems, then kernels."""
    names = engines.candidates(place.library)
    if place.rehearsal:
        return [["problem", place.name, names[-1], "float32"]]
    problems = [["problem", place.name, name, kind] for kind in sizes.KINDS for name in names]
    kernels_of = {
        cluster_plan.FILES: (cluster_plan.expressions(), False),
        grid.FILES: (grid_plan.expressions(), True),
        replay.FILES: (plan.expressions(), False),
    }
    found = [["kernel", files, name, None, cooperative]
             for files, (names, cooperative) in kernels_of.items() for name in names]  # fmt: skip
    return [*problems, ["kernel", pointwise.FILES, pointwise.EXPRESSIONS[0], pointwise.EXPRESSIONS, False], *found]


def do(task):
    """Why a task failed; "" if it did not. That numbers are wrong is for the part `correctness` to say."""
    what, *arguments = task
    try:
        if what == "kernel":
            kernels.function(*arguments).kernel.ptr  # noqa: B018  reading it compiles
        else:
            place, engine, kind = arguments
            correctness.run({"size": SIZE, "engine": engine, "kind": kind}, open_place(place))
    except Exception as error:
        return one_line(error)
    return ""
