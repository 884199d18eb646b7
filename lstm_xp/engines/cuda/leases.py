"""Runners of passes that are kept between calls, each with its graphs and its memory: leased, and bounded.

A runner is made for `steps`, of which it has `packed_bytes`; it is `usable` for later calls until it says otherwise.
"""

import threading
from contextlib import contextmanager

from .capture import is_captured
from .device import current
from .memory import cuda

# Runners that are kept for later calls on a device, the last ones used, with so many bytes of weights at most.
KEPT, KEPT_BYTES = 16, 1 << 29

_idle, _lock = [], threading.Lock()


@contextmanager
def leased(steps, make):
    """A runner for a pass, for this thread on the current device and stream alone, until the `with` ends.

    Where none is kept, one is made, `make(steps)`; and for a capture, to which it belongs for good. Afterwards it goes
    on being in use for as long as the device works; whoever gets it next on that stream comes after.
    """
    if is_captured():
        yield make(steps)
        return
    key = current(), threading.get_ident(), cuda().get_current_stream().ptr, steps
    with _lock:
        found = next((entry for entry in reversed(_idle) if entry[0] == key), None)
        if found:
            _idle.remove(found)
    runner = found[1] if found else make(steps)
    yield runner  # and after an error it is forgotten
    with _lock:
        if runner.usable:
            _idle.append((key, runner))
        here = [entry for entry in _idle if entry[0][0] == key[0]]
        while len(here) > KEPT or sum(kept.steps.packed_bytes for _, kept in here) > KEPT_BYTES:
            _idle.remove(here.pop(0))


def forget():
    """Give back all that is kept."""
    with _lock:
        _idle.clear()
