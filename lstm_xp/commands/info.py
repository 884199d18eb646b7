"""What this machine has: versions, array libraries and their devices, engines and why some cannot be used, the BLAS."""

import os
import platform
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from .. import __version__, checks, engines, libraries

PACKAGES = (
    "numpy", "array-api-compat", "numba", "rich", "matplotlib", "safetensors", "threadpoolctl", "h5py", "onnx",
)  # fmt: skip


def add_arguments(parser):
    """Declare the command's arguments."""


def run(args):
    """Run the command; the exit status."""
    print(f"lstm_xp           {__version__}")
    print(f"Python            {platform.python_version()} ({platform.python_implementation()}, {platform.platform()})")
    print(f"CPU               {_processor()}, {os.cpu_count()} logical cores")
    for package in PACKAGES:
        print(f"{package:18}{_version(package)}")
    print("\narray libraries")
    for name in libraries.LIBRARIES:
        about, *refusals = _library(name)
        print(f"  {name:18}{about}")
        for refusal in refusals:
            print(f"  {'':18}{refusal}")
    print("\nBLAS and thread pools")
    for line in _thread_pools():
        print(f"  {line}")
    return 0


def _version(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _library(name):
    """Lines about a library: what it is, and which of its engines cannot be used."""
    try:
        library = libraries.open_library(name)
    except libraries.Missing as reason:
        return [str(reason)]
    root = checks.array_library(library.xp)
    found = import_module(root).__version__  # not of the namespace: array-api-compat's of CuPy has none
    # Small, and of a dtype that every engine computes: what is refused of it is refused of all.
    problem = checks.Problem(root, "float32", library.device, 1, 1, 1, 1, False, "ieee")
    by_reason = {}
    for engine in engines.candidates(root):
        by_reason.setdefault(engines.load(engine).refuses(problem), []).append(engine)
    usable = ", ".join(by_reason.pop("", ()))
    refusals = (f"not {', '.join(those)}: {reason}" for reason, those in by_reason.items())
    return [f"{found}, device {_device(library)}, {'/'.join(library.dtypes())}; engines: {usable}", *refusals]


def _device(library):
    if checks.array_library(library.xp) != "cupy":
        return library.place
    properties = library.xp.cuda.runtime.getDeviceProperties(library.device.id)
    major, minor = divmod(int(library.device.compute_capability), 10)
    memory = properties["totalGlobalMem"] / 2**30
    return f"{properties['name'].decode()} (compute capability {major}.{minor}, {memory:.0f} GiB)"


def _processor():
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _thread_pools():
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return ["unknown: threadpoolctl is not installed (pip install threadpoolctl)"]
    pools = threadpool_info()
    return [_thread_pool(pool) for pool in pools] or ["none that threadpoolctl knows"]


def _thread_pool(pool):
    """A pool in a line. OpenMP has neither a version nor a kernel."""
    kernel, count = pool.get("architecture"), pool["num_threads"]
    parts = [" ".join(filter(None, [pool["internal_api"], pool.get("version")]))]
    parts += [f"kernel {kernel}"] if kernel else []
    return ", ".join([*parts, f"{count} thread{'s' * (count != 1)} ({pool['prefix']})"])
