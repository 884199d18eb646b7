"""What is asked of CuPy itself, with no driver (cupy_without_gpu.py): `python tests/cupy_scenarios.py NAME`.

Each scenario prints what happened as JSON.
"""

import ctypes
import gc
import json
import os
import sys
import threading
from contextlib import nullcontext, suppress
from itertools import pairwise

import numpy as np
from cupy_without_gpu import MACHINE, install
from fake_cupy import dtype_of
from problems import GRADIENTS, random_problem, reference, rounded, run

from lstm_xp import LSTM, cli, engines, lstm_backward, lstm_forward, recorded, recording, testing
from lstm_xp.checks import Problem
from lstm_xp.engines.cuda import leases, refusals
from lstm_xp.libraries import open_library

ORDERS = (
    {}, {"reverse": True}, {"lengths": [40, 0, 7]}, {"lengths": [40, 0, 7], "reverse": True}, {"training": False},
    {"training": False, "lengths": [40, 0, 7], "reverse": True}, {"lengths": "on the device"},
)  # fmt: skip


def sequence(dtype, engine, precision="ieee", N=3, T=40, D=5, H=33, **order):
    """A forward and, in training, a backward pass; what they launched."""
    import cupy as cp

    library, rng = open_library("cupy"), np.random.default_rng(0)

    def array(*shape):
        return library.asarray(rng.standard_normal(shape), dtype)

    x, h0, c0 = array(N, T, D), array(N, H), array(N, H)
    Wx, Wh, b = array(D, 4 * H), array(H, 4 * H), array(4 * H)
    gradients = {"dh": array(N, T, H), "dh_n": array(N, H), "dc_n": array(N, H)}
    if order.get("lengths") == "on the device":
        order["lengths"] = cp.asarray([1, 2, 50])
    MACHINE.launches.clear()
    MACHINE.products.clear()
    h, cache = lstm_forward(x, h0, Wx, Wh, b, c0=c0, engine=engine, precision=precision, **order)
    results = [h, cache.h_n, cache.c_n]
    if order.get("training", True):
        results += lstm_backward(**gradients, cache=cache)
    assert all(result.dtype == x.dtype for result in results)
    assert apart(results), "results that share memory, or do not lie in their own"
    return [launch[0] for launch in MACHINE.launches]


def apart(arrays):
    """Whether each lies in its memory, and none in that of another one."""
    import cupy as cp

    bounds = sorted((*cp.byte_bounds(v), v.data.mem.ptr, v.data.mem.size) for v in arrays)
    inside = all(start <= low and high <= start + size for low, high, start, size in bounds)
    return inside and all(before[1] <= after[0] for before, after in pairwise(bounds))


def every_engine():
    """Names, arguments and dtypes: whether CuPy takes them all, and that nothing waits."""
    from cupy.cuda import Device

    ran, graphs = [], set()
    for engine in engines.candidates("cupy"):
        for dtype in open_library("cupy").dtypes():
            for precision in ("ieee", "tf32"):
                sizes = Problem("cupy", dtype, Device(), 3, 40, 5, 33, True, precision)
                if engines.load(engine, precision).refuses(sizes):
                    continue
                for order in ORDERS:
                    launched = sequence(dtype, engine, precision, **order)
                    if engine in ("cupy_step", "cupy_fused"):
                        replayed = [int(name.removeprefix("graph of ")) for name in launched if "graph of" in name]
                        graphs.add((engine, order.get("training", True), *replayed))
                ran.append((engine, dtype, precision))
    return {"ran": ran, "graphs": sorted(graphs), "waits": MACHINE.waits}


def numbers():
    """Outputs and gradients of every engine, and of recorded calls: their errors as shares of their limits."""
    import cupy as cp
    from cupy_on_cpu import Processor, on_host

    MACHINE.processor, found = Processor(MACHINE.rule), {}

    def share(results, expected, dtype, T):
        kinds = {name: "gradient" if name in GRADIENTS else "forward" for name in results}
        return max(
            testing.relative_error(on_host(v), expected[name]) / testing.limit(dtype, kinds[name], T)
            for name, v in results.items()
        )

    def given(dtype, seed):
        values = rounded(random_problem(N=3, T=36, D=5, H=20, seed=seed), dtype)
        return values, {name: cp.asarray(value.astype(dtype_of(dtype))) for name, value in values.items()}

    for engine in engines.candidates("cupy")[:-1]:
        for dtype in ("float32", "bfloat16"):
            values, arrays = given(dtype, 1)
            for reverse in (False, True):
                for lengths in (None, [36, 0, 7]):
                    results = run(arrays, engine=engine, reverse=reverse, lengths=lengths)
                    expected = reference(values, lengths, reverse)
                    found[f"{engine}, {dtype}, {reverse}, {lengths}"] = share(results, expected, dtype, 36)
        _, arrays = given("float32", 2)
        call = recorded(run, arrays, engine=engine)
        call()
        values, others = given("float32", 3)
        for name, v in others.items():
            ctypes.memmove(arrays[name].data.ptr, v.data.ptr, v.nbytes)
        found[f"{engine}, recorded"] = share(call(), reference(values), "float32", 36)
    return {"shares": found, "waits": MACHINE.waits}


def products():
    """Every product that cuBLAS was asked for."""
    found = []
    for engine in ("cupy_fused", "cupy_step"):
        for dtype in ("float16", "bfloat16", "float32"):
            sequence(dtype, engine, "tf32" if dtype == "float32" else None)
            found += MACHINE.products
    return {"products": found}


def launches():
    """What a forward and a backward pass launch; and whether a state is copied into memory of its own."""
    found = {}
    for dtype in ("float32", "float16"):
        for training in (True, False):
            names = sequence(dtype, "cupy_cluster", training=training)
            found[f"{dtype}, {training}"] = [names, len(MACHINE.products)]
    library = open_library("cupy")
    v = library.asarray(np.arange(12.0).reshape(3, 4), "float32")
    copied = engines.load("cupy_cluster").copy(v)
    return {"launches": found, "same": bool(np.all(copied.get() == v.get())), "own": copied.data.ptr != v.data.ptr}


class Meanwhile:
    """A pool whose last results another thread drops while it frees what is unused."""

    def __init__(self, pool, results):
        self.pool, self.results = pool, results

    def free_all_blocks(self):
        self.pool.free_all_blocks()
        self.results.clear()

    def used_bytes(self):
        return self.pool.used_bytes()


def recordings():
    """A forward and a backward pass in one graph."""
    import cupy as cp

    found = {}
    x, dh = cp.ones((3, 40, 5), cp.float32), cp.ones((3, 40, 33), cp.float32)
    Wx, Wh = cp.ones((5, 132), cp.float32), cp.ones((33, 132), cp.float32)

    def both(engine):
        h, cache = lstm_forward(x, None, Wx, Wh, None, engine=engine)
        return h, *lstm_backward(dh, cache)

    for engine in engines.candidates("cupy")[:-1]:
        call, found[engine] = recorded(both, engine), []
        MACHINE.launches.clear()
        results = call()
        found[engine] += [launch[0] for launch in MACHINE.launches]
        assert all(one is other for one, other in zip(results, call(), strict=True))
    # Of a function that returns nothing, and of results that outlive their object.
    out = cp.zeros((3, 40, 33), cp.float32)

    def write(arrays):
        out[...] = lstm_forward(arrays["x"], None, Wx, Wh, None, engine="cupy_cluster")[0]

    def held():
        return sum(MACHINE.memory.values())

    def one():
        return recorded(lstm_forward, x, None, Wx, Wh, None, engine="cupy_cluster")

    silent, left, taken = recorded(write, {"x": x}), [], {}
    for turn in range(3):
        outliving = one()
        kept = outliving()
        del outliving
        left.append(len(recording._left))
        taken["a result outlives", turn] = held()
    for turn in range(3):
        recorded(both, "cupy_fused")()
        taken["nothing is left", turn] = held()
    for turn in range(3):
        with suppress(ValueError):
            recorded(lstm_forward, x, None, Wx, Wh, None, lengths=[1, 2, 3], engine="cupy_cluster")
        taken["it cannot be captured", turn] = held()
    for turn in range(3):
        with cp.cuda.Device(1):
            there = [cp.ones(v.shape, v.dtype) for v in (x, Wx, Wh)]
            elsewhere = recorded(lstm_forward, there[0], None, *there[1:], None, engine="cupy_cluster")
            result = elsewhere()
        del elsewhere  # where its device is not current, and its result is needed
        del result, there
        with cp.cuda.Device(1):
            cp.get_default_memory_pool().free_all_blocks()
        recording._give_back()
        taken["another device", turn] = held()
    for turn in range(3):
        going = one()
        results = [going()]
        del going
        device, pool = recording._left.pop()
        recording._left.append((device, Meanwhile(pool, results)))
        del pool
        recording._give_back()
        recording._give_back()
        taken["a result goes meanwhile", turn] = held()
    cycle = [one()]
    cycle.append(cycle)
    del cycle
    gc.collect()
    recording._give_back()
    taken["the garbage collector", 0] = held()
    assert silent() is None
    told = []
    for wrong in (lambda: recorded(lstm_forward, x, None, Wx, Wh, None, lengths=[1, 2, 3]), on_another_device(silent)):
        try:
            wrong()
        except (ValueError, RuntimeError) as error:
            told.append(f"{type(error).__name__}: {error}")
    found = {
        "recordings": found,
        "left": left,
        "taken": {f"{name}, {turn}": size for (name, turn), size in taken.items()},
        "told": told,
        "kept": kept[0].shape,
    }
    return found | {"waits": MACHINE.waits}


def on_another_device(call):
    import cupy as cp

    def run():
        with cp.cuda.Device(1):
            call()

    return run


def fresh_thread():
    """The first launches of a thread, which has no context before, of memory that the pool has already."""
    import cupy as cp

    x, Wx, Wh = (cp.ones(shape, cp.float32) for shape in ((3, 40, 5), (5, 132), (33, 132)))
    done = []

    def work():
        done.append(lstm_forward(x, None, Wx, Wh, None, engine="cupy_cluster")[0].shape)

    work()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return {"done": done}


def streams():
    """Where everything goes while a stream is current."""
    import cupy as cp

    sequence("float32", "cupy_step")  # what is compiled and captured once
    found = {}
    for name, stream in (("null", None), ("other", cp.cuda.Stream(non_blocking=True)), ("ptds", cp.cuda.Stream.ptds)):
        with stream or nullcontext():
            for engine in ("cupy_fused", "cupy_step"):
                sequence("float32", engine)
                seen = {launch[3] for launch in MACHINE.launches} | {one["stream"] for one in MACHINE.products}
                found[f"{name}, {engine}"] = [sorted(seen), cp.cuda.get_current_stream().ptr]
    return {"streams": found, "kept": len(leases._idle)}


def second_device():
    """Arrays of a device that is not current, and of one that is."""
    import cupy as cp

    with cp.cuda.Device(1):
        launched = {engine: len(sequence("float32", engine)) for engine in engines.candidates("cupy")}
        x, Wx, Wh = (cp.ones(shape, cp.float32) for shape in ((2, 3, 4), (4, 8), (2, 8)))
        devices = {lstm_forward(x, None, Wx, Wh, None, engine=name)[0].device.id for name in engines.candidates("cupy")}
    try:
        lstm_forward(x, None, Wx, Wh, None)
    except ValueError as error:
        return {"launched": launched, "devices": sorted(devices), "told": str(error)}


def check_command():
    """`lstm-xp check` and `info`: all but the comparisons."""
    testing.relative_error = lambda actual, expected: 0.0 * testing.to_numpy(actual).size

    def calls_alone(forward, backward, arguments, **options):
        backward(*forward(**arguments))
        return dict.fromkeys(arguments, 0.0)

    testing.check_gradients = calls_alone
    return {"status": [cli.main(["check", "--library", "cupy"]), cli.main(["info"])]}


def info_without_cublas():
    """`lstm-xp info` where CuPy's module of cuBLAS cannot be imported."""
    from cupy_backends.cuda import libs

    sys.modules["cupy_backends.cuda.libs.cublas"] = None
    del libs.cublas
    refusals.obstacle.cache_clear()
    return {"status": cli.main(["info"])}


def one_step_at_a_time():
    """A network as a stream."""
    import cupy as cp

    for engine in ("auto", "cupy_fused", "cupy_step"):
        network = LSTM(5, 7, num_layers=2, engine=engine)
        params = network.init(xp=open_library("cupy").xp, dtype="float32")
        y, state = network.step(params, cp.ones((3, 5), cp.float32), None)
        y, state = network.step(params, cp.ones((3, 5), cp.float32), state)
    return {"shape": list(y.shape), "waits": MACHINE.waits}


if __name__ == "__main__":
    install()
    result = globals()[sys.argv[1]]()
    print("\n" + json.dumps(result | {"wrong": MACHINE.wrong}), flush=True)
    os._exit(0)  # what CuPy does at the end needs a driver
