"""Calls that are made many times with arrays of the same sizes: recorded once, and replayed by the device alone."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

# Pools of what was recorded, for as long as an array lies in one: memory of a pool that is gone is gone, too.
_pools = []


class Recorded:
    """A recorded call: `recorded` makes it. Calling it computes `result` from what the arguments hold now."""

    def __init__(self, function, arguments, options):
        self._call = lambda: function(*arguments, **options)
        self._graph = None
        arrays = [v for v in (*arguments, *options.values()) if type(v).__module__ == "cupy"]
        if arrays:
            self._graph, self.result = _captured(self._call)
        else:
            self.result = self._call()

    def __call__(self):
        if self._graph is None:
            self.result = self._call()
        else:
            from cupy.cuda import get_current_stream

            self._graph.launch(get_current_stream())
        return self.result


def recorded(function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Recorded:
    """Record a call on CuPy arrays, so that it can be made again without Python's share of it.

    The call is made once, and then captured as a CUDA graph; ``recorded(...)()`` replays it. Of a small problem,
    Python takes several times as long as the device: that is what is saved.

    Parameters
    ----------
    function : callable
        `lstm_forward`, or a function of one's own of `lstm_forward`, `lstm_backward` and operations of CuPy that do not
        wait for the device. It returns arrays, in whatever.
    *arguments, **options
        What it is called with. CuPy arrays among them are read at each replay: write new values into them
        (``x[...] = ...``). With arrays of another library, nothing is recorded, and each call is made anew.

    Returns
    -------
    Recorded
        A function of nothing: it returns what `function` does, and has it as ``result``. On CuPy, the arrays are the
        same ones at every call, and are written over: copy what is to be kept.

    Raises
    ------
    ValueError, TypeError, EngineError
        As the function does.
    RuntimeError
        If the function waits for the device, or copies from the host (`lengths` as host integers, for example), which a
        capture does not allow.

    Notes
    -----
    What the call needs beside its arguments is kept until the object is gone. Replays go to the current stream, one
    after the other: not two of one object at once. Cost of a replay: that of the device.

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


def _captured(call):
    """A graph of a call on the current device, and the call's result, which lies in memory of its own."""
    from cupy.cuda import MemoryPool, Stream, get_current_stream, runtime, using_allocator

    from .engines.cuda import blas, replay

    blas.prepare()
    _pools[:] = [pool for pool in _pools if pool.used_bytes()]
    pool, stream, before = MemoryPool(), Stream(non_blocking=True), get_current_stream().record()
    stream.wait_event(before)
    with using_allocator(pool.malloc), stream:
        with replay.as_captured():
            call()  # what is compiled or loaded
        stream.synchronize()
        with replay.capturing:
            stream.begin_capture(runtime.streamCaptureModeRelaxed)
            try:
                result = call()
            except Exception as error:
                with suppress(Exception):  # of a capture that is spoiled
                    stream.end_capture()
                raise RuntimeError(f"recorded: the call cannot be captured, for it waits or copies: {error}") from error
            graph = stream.end_capture()
    _pools.append(pool)
    return graph, result
