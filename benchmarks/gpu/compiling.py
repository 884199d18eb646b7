"""Compile ahead, in as many processes as there are cores: what takes a second when it is used first lies on disk then.

The engines' kernels are compiled one by one; CuPy's own, for the arithmetic of arrays, by a small problem with each
engine in each kind of numbers, and by comparing its results: first one without the other, so that not all processes
compile the same. All kernels come into CuPy's cache, where every later process finds them.
"""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from time import perf_counter

from lstm_xp import engines
from lstm_xp.engines.cuda import cluster_plan, grid, grid_plan, kernels, plan, pointwise, step_launches

from ..worker import one_line
from . import comparing, correctness, sizes
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
    """What the processes are asked for, one after the other: what takes long first, what needs it all last."""
    names = engines.candidates(place.array_library)
    if place.rehearsal:
        return [[task, place.name, names[-1], "float32"] for task in ("run", "compare", "prove")]
    every = [[place.name, name, kind] for name in reversed(names) for kind in sizes.KINDS]
    compared = [["compare", place.name, names[-1], kind] for kind in sizes.KINDS]
    several = {
        cluster_plan.FILES: (cluster_plan.expressions(), False),
        grid.FILES: (grid_plan.expressions(), True),
        step_launches.FILES: (plan.expressions(), False),
    }
    ours = [["kernel", files, name, None, whole] for files, (names, whole) in several.items() for name in names]
    ours += [["kernel", pointwise.FILES, pointwise.EXPRESSIONS[0], pointwise.EXPRESSIONS, False]]
    return [*compared, *(["run", *each] for each in every), *ours, *(["prove", *each] for each in every)]


def do(task):
    """Why a task failed; "" if it did not. That numbers are wrong is for the part `correctness` to say."""
    what, *arguments = task
    try:
        if what == "kernel":
            kernels.function(*arguments).kernel.ptr  # noqa: B018  reading it compiles
        else:
            _use(what, *arguments)
    except Exception as error:
        return one_line(error)
    return ""


def _use(what, place, engine, kind):
    place = open_place(place)
    if what == "prove":
        correctness.run({"size": SIZE, "engine": engine, "kind": kind}, place)
    elif not correctness.refusal(engine, kind, SIZE, place):
        drawn = comparing.draw(SIZE, "float32")
        arrays = {name: place.array(value, kind) for name, value in drawn.items()}
        if what == "run":
            comparing.run(arrays, engine=engine, precision=sizes.KINDS[kind].precision)
        else:
            comparing.shares(
                arrays, {name: place.array(value) for name, value in drawn.items()}, "float64", 1, place.xp
            )
            comparing.changed(arrays, {name: array.copy() for name, array in arrays.items()}, place.xp)
        place.synchronize()
