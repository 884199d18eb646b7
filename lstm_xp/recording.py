"""Calls that are made many times with arrays of the same sizes: recorded once, and replayed by the device alone."""

import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

# Devices and pools of objects that are no more, for as long as a result lies in one. Whoever has the lock takes out.
_left, _freeing = [], threading.Lock()


class Recorded:
    """A recorded call: `recorded` makes it. Calling it computes `result` from what the arguments hold now."""

    def __init__(self, function, arguments, options):
        self._call, self._graph, self.result = (lambda: function(*arguments, **options)), None, None
        if _has_cupy((arguments, options)) or _has_cupy(self._call()):
            self._device, memory, self._graph, self._recorded = _captured(self._call)
            self._memory = memory  # the last attribute: it goes after the results

    def __call__(self):
        if self._graph is None:
            self.result = self._call()
        else:
            from cupy.cuda import get_current_stream

            from .engines.cuda import device, grid

            if device.current() != self._device:
                raise ValueError(
                    f"a call that was recorded on cuda:{self._device} can only be replayed where that device is "
                    f"current; it is cuda:{device.current()}. Call it inside of: with cupy.cuda.Device({self._device})."
                )
            grid.check("recorded")
            self._graph.launch(get_current_stream())
            self.result = self._recorded
        return self.result


def recorded(function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Recorded:
    """Record a call on CuPy arrays, so that it can be made again without Python's share of it.

    The call is made once, and captured as a CUDA graph; ``recorded(...)()`` replays that. Of a small problem, Python
    takes several times as long as the device: that is what is saved.

    Parameters
    ----------
    function : callable
        `lstm_forward`, or a function of one's own of `lstm_forward`, `lstm_backward` and operations on CuPy arrays,
        element by element. It returns arrays, in tuples, lists or dicts if there are several. Arrays that it takes from
        elsewhere than its arguments have to stay the same objects, alive, and to be written to in place.
    *arguments, **options
        What it is called with. The arrays among them are read at each replay: write new values into them
        (``x[...] = ...``); all else is as it was when the call was recorded.

    Returns
    -------
    Recorded
        A function of nothing: it returns what `function` does, and has it as ``result`` (None before the first call).
        On CuPy, the arrays are the same ones at every call, and are written over: copy what is to be kept. Where no
        CuPy array is among arguments or results, nothing is recorded, and each call is made anew.

    Raises
    ------
    ValueError, TypeError, EngineError, MemoryError
        As the function does.
    RuntimeError
        If the call cannot be captured: it waits for the device, copies from or to the host (such as `lengths` that are
        host integers), or multiplies matrices by CuPy's own operators, which refuse that; so does the engine
        'array_api', which runs where no other is known to be right. Or if cuBLAS is not found by itself (on Windows).

    Notes
    -----
    What the call needs beside its arguments is kept until the object is gone; its results stay what they are, then.
    (Of an object that goes in a cycle of references, it is kept until the next recording, or the end of another one.)
    Memory that goes is given back to the device: let no object go while another library captures a graph.
    Replays go to the current stream; not two of one object at once. Cost of a replay: that of the device. Its results
    may differ from those of an ordinary call in the last digits: 'cupy_fused' launches its steps one by one there, and
    cuBLAS may choose other kernels.

    References
    ----------
    .. [1] NVIDIA, "CUDA C++ Programming Guide", CUDA Graphs.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_xp import lstm_forward, recorded
    >>> x, Wx, Wh = (np.ones(shape) for shape in ((2, 5, 3), (3, 16), (4, 16)))
    >>> forward = recorded(lstm_forward, x, None, Wx, Wh, None, training=False)
    >>> x[...] = 0
    >>> h, cache = forward()
    >>> bool(np.all(h == 0))
    True
    """
    return Recorded(function, arguments, options)


def _has_cupy(v):
    """Whether there is a CuPy array in it."""
    if isinstance(v, dict):
        v = tuple(v.values())
    if isinstance(v, tuple | list):
        return any(map(_has_cupy, v))
    return "cupy" in sys.modules and isinstance(v, sys.modules["cupy"].ndarray)


def _captured(call):
    """The current device's number, what stands for the memory of a call, its graph, and its result."""
    from cupy.cuda import MemoryPool

    from .engines.cuda import blas
    from .engines.cuda.device import current

    _give_back()
    blas.prepare()
    device, pool = current(), MemoryPool()
    memory = _Memory(device, pool)  # after an error it goes with that: later than what lies in the pool
    return device, memory, *_captured_in(pool, call)


def _captured_in(pool, call):
    from cupy.cuda import Stream, get_current_stream, runtime, using_allocator

    from .engines.cuda import capture

    stream = Stream(non_blocking=True)
    stream.wait_event(get_current_stream().record())
    with using_allocator(pool.malloc), stream, capture.capturing:
        with capture.as_captured():
            call()  # what is compiled or loaded
        stream.synchronize()
        held = pool.total_bytes()
        stream.begin_capture(runtime.streamCaptureModeRelaxed)
        try:
            result = call()
        except Exception as error:
            with suppress(Exception):  # of a capture that is spoiled
                stream.end_capture()
            if isinstance(error, ValueError | TypeError | MemoryError):
                raise
            raise RuntimeError(f"recorded: the call cannot be captured: {error}") from error
        graph = stream.end_capture()
        if pool.total_bytes() < held:  # where there is none, CuPy gives memory back that launches before may use
            raise MemoryError("recorded: there was too little memory for what the call needs")
    return graph, result


class _Memory:
    """What belongs to an object: when it goes, what nobody uses of its pool is given back, at once or to the next."""

    def __init__(self, device, pool):
        weakref.finalize(self, _leave, device, pool).atexit = False


def _leave(device, pool):
    _left.append((device, pool))
    _give_back()


def _give_back():
    """Free what is unused of pools that were left, as CuPy does not where a pool is gone; forget those that are empty.

    This may be called from anywhere, by the garbage collector: in the middle of itself, too, or of a capture, which it
    would spoil, for it waits for the device. Then it is left for another time.
    """
    from cupy.cuda import Device

    from .engines.cuda import capture

    if not _freeing.acquire(blocking=False):
        return
    try:
        if capture.is_captured() or not capture.capturing.acquire(blocking=False):
            return
        try:
            for place in list(_left):
                device, pool = place
                with Device(device):  # pools have a part for each
                    unused = not pool.used_bytes()  # asked first: what comes back from now on is freed the next time
                    pool.free_all_blocks()
                if unused:
                    _left.remove(place)
        finally:
            capture.capturing.release()
    finally:
        _freeing.release()
