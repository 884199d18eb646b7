"""What a time depends on, beside the code: processor, libraries, threads, commit."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Set by some environments to run everywhere; they make OpenBLAS leave out the fast kernels of this processor.
DISTORTING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
THREAD_SETTINGS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "OPENBLAS_THREAD_TIMEOUT",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "OMP_WAIT_POLICY",
)


def describe():
    """Processor, cores, system, load, date, commit, the user's thread settings, and what contenders do not see."""
    return {
        "cpu": cpu(),
        "cores": cores(),
        "system": platform.platform(terse=True),
        "load": load(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "settings": {name: os.environ[name] for name in THREAD_SETTINGS if name in os.environ},
        "dropped": {name: os.environ[name] for name in DISTORTING if name in os.environ},
    }


def cpu():
    """The processor's model."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def cores():
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def load():
    """How many threads ran on average in the last minute; 0 where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def commit():
    """The commit of this checkout, with "-dirty" if it was changed; "unknown" without git."""
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions(packages):
    """Of Python, and of NumPy and those of the packages that this process has imported."""
    found = {name: sys.modules[name].__version__ for name in ("numpy", *packages) if name in sys.modules}
    return {"python": platform.python_version(), **found}


def thread_pools():
    """The BLAS and OpenMP libraries of this process, with kernel and threads; None without threadpoolctl."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return None
    wanted = ("user_api", "internal_api", "version", "architecture", "num_threads")
    return [{key: pool[key] for key in wanted if key in pool} for pool in threadpool_info()]


def environment():
    """The environment of a worker: the caller's, without what distorts, and with this checkout first on the path."""
    kept = {name: value for name, value in os.environ.items() if name not in DISTORTING}
    kept["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return kept
