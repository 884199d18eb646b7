"""The most memory that a process held while it worked, beyond what it held before.

On Linux this is the resident set: VmRSS before, and its high-water mark VmHWM, which is set back in between. Where it
cannot be set back (`/proc/self/clear_refs` may be forbidden), and on other systems (`ru_maxrss`), both marks are those
of the whole life of the process: what is below an earlier peak is not seen. `of` says which it was.
"""

import gc
import sys
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def of(call):
    """Bytes, how they were found, and the result of the call.

    The call is made twice, and the second one counts: what the first leaves behind (workspaces, caches, memory that the
    allocator keeps) is part of what the process holds, what only the first needs (a compiler) is not.
    """
    gc.collect()
    before, marked = _now(), _peak()
    call()
    how = _reset()
    result = call()
    after = _peak()
    return after - (before if how == "VmHWM" else marked), how, result


def _now():
    return _status("VmRSS")


def _peak():
    found = _status("VmHWM")
    if found is not None:
        return found
    import resource  # not on every system

    # In bytes on macOS, in KiB elsewhere.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _reset():
    try:
        CLEAR.write_text("5")
    except OSError:
        return "VmHWM of the process's life" if STATUS.exists() else "ru_maxrss of the process's life"
    return "VmHWM"


def _status(field):
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return 1024 * int(values[0]) if values else None
