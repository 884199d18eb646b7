"""What one launch, one edge of a graph, one barrier and one message cost: the parts of a time step that no rate bounds.

Each is the slope between a short and a long run, so that what a run costs once is not in it.
"""

from functools import lru_cache
from pathlib import Path
from statistics import median

import numpy as np

from lstm_xp.engines.cupy_cluster import NON_PORTABLE, PORTABLE

from .timing import times

SOURCE = Path(__file__).with_name("latencies.cu")
OPTIONS = ("-std=c++17",)
EVERYWHERE = ("nothing", "grid_barrier")
CLUSTER_SIZES = (2, 4, 8, 16)
CLUSTERS = tuple(f"{kernel}<{size}>" for kernel in ("cluster_barrier", "cluster_push") for size in CLUSTER_SIZES)
# The least compute capability that has clusters.
HAS_CLUSTERS = 90
SHORT, LONG, CALLS = 256, 2048, 9


class Lost(Exception):
    """Somebody waited in vain, or got a wrong word."""


def units(place):
    names = ("launch", "graph edge", "grid barrier", *CLUSTERS)
    return [{"latency": name} for name in names]


def run(unit, place):
    """One record: microseconds."""
    name = unit["latency"]
    if place.rehearsal:
        return [{"refused": "it needs a GPU"}]
    import cupy

    capability = int(cupy.cuda.Device().compute_capability)
    if name in CLUSTERS and capability < HAS_CLUSTERS:
        return [{"refused": f"clusters need compute capability 9.0, this device has {capability / 10}"}]
    try:
        work = {"launch": _launch, "graph edge": _graph_edge, "grid barrier": _grid_barrier}.get(name)
        return [{"microseconds": work(place) if work else _cluster(name, place)}]
    except Lost as lost:
        return [{"failed": str(lost)}]


@lru_cache(maxsize=1)
def _module(capability):
    import cupy

    names = (*EVERYWHERE, *(CLUSTERS if capability >= HAS_CLUSTERS else ()))
    return cupy.RawModule(code=SOURCE.read_text(encoding="utf-8"), options=OPTIONS, name_expressions=names)


def _function(name):
    import cupy

    return _module(int(cupy.cuda.Device().compute_capability)).get_function(name)


def slope(run, place, short=SHORT, long=LONG, calls=CALLS):
    """Microseconds of one more step; `run(steps)` gives a function that does so many."""
    found = {}
    for steps in (short, long):
        call = run(steps)
        times(call, place, 0, 2)
        found[steps] = median(times(call, place, 0, calls))
    return (found[long] - found[short]) / (long - short) * 1e6


def _launch(place):
    nothing = _function("nothing")

    def launches(steps):
        def call():
            for _ in range(steps):
                nothing((1,), (32,), ())

        return call

    return slope(launches, place)


def _graph_edge(place):
    import cupy

    nothing = _function("nothing")
    nothing((1,), (32,), ())
    stream = cupy.cuda.Stream(non_blocking=True)

    def replay(steps):
        stream.begin_capture()
        for _ in range(steps):
            nothing((1,), (32,), ())
        graph = stream.end_capture()
        return lambda: graph.launch(stream)

    with stream:
        return slope(replay, place)


def _grid_barrier(place):
    import cupy

    barrier = _function("grid_barrier")
    blocks = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["multiProcessorCount"]
    counter, lost = cupy.zeros(1, cupy.uint32), cupy.zeros(1, cupy.uint32)

    def meetings(steps):
        def call():
            counter.fill(0)
            barrier((blocks,), (128,), (counter, lost, np.int32(steps)))

        return call

    return _unless_lost(slope(meetings, place), lost)


def _cluster(name, place):
    import cupy

    kernel, size = _function(name), int(name.partition("<")[2].rstrip(">"))
    if size > PORTABLE:
        from cupy_backends.cuda.api import driver

        driver.funcSetAttribute(kernel.kernel.ptr, NON_PORTABLE, 1)
    lost = cupy.zeros(1, cupy.uint32)
    before = (lost,) if name.startswith("cluster_push") else ()
    return _unless_lost(slope(lambda steps: lambda: kernel((size,), (32,), (*before, np.int32(steps))), place), lost)


def _unless_lost(found, lost):
    if int(lost[0]):
        raise Lost("a block waited in vain, or got a wrong word")
    return found
