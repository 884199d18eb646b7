"""What a stream captures as a CUDA graph: by one thread at a time, and whether one does."""

import threading
from contextlib import contextmanager

from .memory import cuda

# For what one thread at a time may do: capture, and what spoils the capture of any other, which is to wait for the
# whole device, as the making of a handle of cuBLAS does.
capturing = threading.RLock()


class _Here(threading.local):
    as_captured = False


_here = _Here()


@contextmanager
def as_captured():
    """In it, this thread works as it does in a capture, so that nothing is left to be loaded then."""
    _here.as_captured = True
    try:
        yield
    finally:
        _here.as_captured = False


def is_captured():
    """Whether what goes to the current stream is captured, or is to be done as if it were."""
    return _here.as_captured or cuda().get_current_stream().is_capturing()


def captured(launch):
    """A graph of all that a function launches.

    Another thread, of the caller's own, may spoil a capture. So one that fails is tried once more.
    """
    with capturing:
        try:
            return _captured(launch)
        except Exception:
            return _captured(launch)


def _captured(launch):
    from cupy.cuda import Stream, runtime

    stream = Stream(non_blocking=True)
    with stream:
        # In this mode, no thread is kept from making arrays meanwhile.
        stream.begin_capture(runtime.streamCaptureModeRelaxed)
        try:
            launch()
        finally:
            graph = stream.end_capture()
    return graph
