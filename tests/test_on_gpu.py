"""What only a GPU can show of CuPy's engines: streams and threads at once, too little memory, a second device."""

import gc
import re
from threading import Barrier, Thread

import numpy as np
import pytest
from problems import backward, forward, random_problem, run, same_bits

from lstm_xp import lstm_forward, recorded
from lstm_xp.checks import Problem
from lstm_xp.engines import candidates, load
from lstm_xp.engines.cuda import leases, programmatic, step_launches
from lstm_xp.engines.cuda.plan import CLUSTERS, LEAST
from lstm_xp.testing import assert_close

engines = pytest.mark.parametrize("name", candidates("cupy")[:-1])  # all but the reference
SIZES = {"N": 5, "T": 70, "D": 9, "H": 24}  # of several graphs


@pytest.fixture
def gpu(library, name):
    lib = library("cupy")
    reason = load(name).refuses(Problem("cupy", "float32", lib.device, **SIZES, training=True, precision="ieee"))
    if reason:
        pytest.skip(reason)
    return lib


@pytest.fixture
def gpu_of_steps(library):
    lib = library("cupy")
    if int(lib.device.compute_capability) < LEAST:
        pytest.skip("cupy_step does not run there")
    return lib


def arrays_of(lib, seed, **sizes):
    values = random_problem(seed=seed, **SIZES | sizes)
    return {name: lib.asarray(value, "float32") for name, value in values.items()}


def on_host(lib, results):
    return {name: lib.to_numpy(value) for name, value in results.items()}


@engines
def test_recorded_calls(gpu, name):
    """Replays compute what other calls do, of what the arguments hold then, whatever was computed in between."""
    arrays, others = arrays_of(gpu, 0), arrays_of(gpu, 1)
    inputs = arrays | {"Wx": arrays["Wx"].copy()}

    def call(x, Wx):
        h, cache = forward(inputs | {"x": x, "Wx": Wx}, engine=name)
        return {"h": h, "h_n": cache.h_n, "c_n": cache.c_n} | backward(inputs, cache)

    replay = recorded(call, inputs["x"], inputs["Wx"])
    for given in (others, arrays):
        inputs["x"][...], inputs["Wx"][...] = given["x"], given["Wx"]
        expected = on_host(gpu, call(inputs["x"], inputs["Wx"]))
        with gpu.xp.cuda.Stream(non_blocking=True) as stream:
            for _ in range(3):
                found = replay()
            stream.synchronize()
        for part, value in on_host(gpu, found).items():
            assert_close(value, expected[part], steps=SIZES["T"], name=part, kind="gradient")
            # Captured, the steps of cupy_fused are launched one by one, whose sums are in another order.
            assert name == "cupy_fused" or same_bits(value, expected[part]), part


@engines
def test_streams_and_threads_at_once(gpu, name):
    """Each thread with a stream of its own, and then all of them on one: the same bits as one after the other."""
    cuda, count, rounds = gpu.xp.cuda, 4, 10
    problems = [arrays_of(gpu, seed) for seed in range(count)]
    expected = [on_host(gpu, run(arrays, engine=name)) for arrays in problems]
    found, together = {}, Barrier(count)
    gpu.device.synchronize()

    def work(k, stream):
        with gpu.device, stream:
            together.wait()
            for turn in range(rounds):
                found[k, turn] = run(problems[(k + turn) % count], engine=name)
            stream.synchronize()

    for streams in ([cuda.Stream(non_blocking=True) for _ in range(count)], [cuda.Stream(non_blocking=True)] * count):
        threads = [Thread(target=work, args=(k, stream)) for k, stream in enumerate(streams)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == count * rounds
        for (k, turn), results in found.items():
            for part, value in on_host(gpu, results).items():
                assert same_bits(value, expected[(k + turn) % count][part]), (k, turn, part)
        found.clear()


@engines
def test_the_first_call_of_a_thread(gpu, name):
    """It has no context, and all the memory that it wants is there already."""
    arrays, found = arrays_of(gpu, 0), []
    expected = on_host(gpu, run(arrays, engine=name))
    thread = Thread(target=lambda: found.append(run(arrays, engine=name)))
    thread.start()
    thread.join()
    (results,) = found
    assert all(same_bits(value, expected[part]) for part, value in on_host(gpu, results).items())


@engines
def test_too_little_memory_is_said_and_nothing_leaks(gpu, name):
    xp, arrays = gpu.xp, arrays_of(gpu, 0)
    expected = on_host(gpu, run(arrays, engine=name))
    N, T, H = 2**18, 2**11, 64  # 826.78 GB, 549.76 of them pre-activations, of an x that has one number
    x = xp.broadcast_to(xp.zeros((1, 1, 1), dtype=xp.float32), (N, T, 1))
    Wx, Wh = (xp.zeros((rows, 4 * H), dtype=xp.float32) for rows in (1, H))
    used = set()
    for _ in range(3):
        with pytest.raises(MemoryError) as raised:
            lstm_forward(x, None, Wx, Wh, None, engine=name)
        assert re.search(r"need 826\.78 GB on cuda:\d+, where [\d.]+ GB of [\d.]+ GB are free", str(raised.value))
        assert "training=False" in str(raised.value)
        del raised
        gc.collect()
        used.add(xp.get_default_memory_pool().used_bytes())
    assert len(used) == 1
    for part, value in on_host(gpu, run(arrays, engine=name)).items():
        assert same_bits(value, expected[part]), part


@engines
def test_what_is_behind_lengths_is_not_seen(gpu, name):
    """Of an x that is time-major, too, which is multiplied as it lies: each row of the product is of one row of x."""
    arrays, lengths = arrays_of(gpu, 0), [70, 0, 1, 33, 69]
    for time_major in (False, True):
        found = []
        for junk in (0.0, float("nan")):
            x = arrays["x"].copy()
            if time_major:
                x = gpu.xp.ascontiguousarray(x.swapaxes(0, 1)).swapaxes(0, 1)
            for n, length in enumerate(lengths):
                x[n, length:] = junk
            found.append(on_host(gpu, run(arrays | {"x": x}, engine=name, lengths=lengths)))
        for part, value in found[0].items():
            assert same_bits(value, found[1][part]), (time_major, part)


@engines
def test_a_second_device(gpu, name):
    if gpu.xp.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("there is one GPU")
    expected = on_host(gpu, run(arrays_of(gpu, 0), engine=name))
    with gpu.xp.cuda.Device(1) as second:
        results = run(arrays_of(gpu._replace(device=second), 0), engine=name)
        assert all(value.device == second for value in results.values())
        for part, value in on_host(gpu, results).items():
            assert same_bits(value, expected[part]), part


@engines
def test_sums_of_float32_are_ieees(gpu, name):
    """TF32 is used where it is asked for, and nowhere else."""
    values = random_problem(N=8, T=2, D=64, H=64)
    arrays = {part: gpu.asarray(value, "float32") for part, value in values.items()}
    exact, coarse = (on_host(gpu, run(arrays, engine=name, precision=kind)) for kind in ("ieee", "tf32"))
    assert 1e-6 < np.max(np.abs(exact["h"] - coarse["h"])) < 1e-2


@pytest.mark.parametrize(("N", "H"), [(5, 24), (1, 512), (64, 768)])
def test_steps_that_begin_early_compute_the_same(gpu_of_steps, monkeypatch, N, H):
    """Programmatic launches and ordinary ones, bit by bit, with other weights at each call of the same runner."""
    lib = gpu_of_steps
    problems = [arrays_of(lib, seed, N=N, H=H) for seed in range(5)]

    def forget():
        leases.forget()
        step_launches.forget()

    def results():
        forget()
        found = [run(arrays, engine="cupy_step") for _ in range(2) for arrays in problems]
        return [on_host(lib, one) for one in found]

    found = results()
    used = step_launches._programmatic.copy()
    monkeypatch.setattr(programmatic, "loaded", lambda: None)
    expected = results()
    monkeypatch.undo()
    forget()
    print(f"programmatic launches, by device: {used}; driver {lib.xp.cuda.runtime.driverGetVersion()}")
    for one, other in zip(found, expected, strict=True):
        assert all(same_bits(one[part], other[part]) for part in other)
    if int(lib.device.compute_capability) >= CLUSTERS and programmatic.loaded():
        assert used == {lib.device.id: True}
