"""What the figures depend on, beside the code: GPU, clocks, driver, and the versions of all libraries."""

import shutil
import subprocess

ASKED = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.draw,power.limit,temperature.gpu"


def units(place):
    return [{}]


def run(unit, place):
    """One record; what cannot be found out says why."""
    place.check()
    found = {"place": place.name}
    for name, ask in {**(_CUDA if place.name == "cuda" else {}), **_TORCH, "nvidia-smi": _smi}.items():
        found[name] = _answer(ask)
    return [found]


def smi():
    """What nvidia-smi says, by name, or why it says nothing; the clocks are those of this moment."""
    return _answer(_smi)


def _answer(ask):
    try:
        return ask()
    except Exception as error:
        return f"unknown ({type(error).__name__}: {' '.join(str(error).split())})"[:200]


def _smi():
    command = shutil.which("nvidia-smi")
    if command is None:
        return "not installed"
    asked = [command, f"--query-gpu={ASKED}", "--format=csv,noheader"]
    line = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()[0]
    return dict(zip(ASKED.split(","), map(str.strip, line.split(",")), strict=True))


def line(found):
    """An environment in one line."""
    clocks = found.get("nvidia-smi")
    words = [f"{name} {value}" for name, value in found.items() if name not in ("place", "nvidia-smi", "part")]
    if isinstance(clocks, dict):
        words += [f"{name} {clocks[name]}" for name in ("driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm")]
    return "; ".join(words)


def _properties():
    import cupy

    return cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)


def _runtime(name):
    def ask():
        import cupy

        return getattr(cupy.cuda.runtime, name)()

    return ask


def _version(library):
    def ask():
        from importlib.metadata import version

        return version(library)

    return ask


def _nvrtc():
    from cupy_backends.cuda.libs import nvrtc

    return ".".join(map(str, nvrtc.getVersion()))


def _cublas():
    import cupy
    from cupy_backends.cuda.libs import cublas

    return cublas.getVersion(cupy.cuda.device.get_cublas_handle())


def _cupy():
    import cupy

    return cupy.__version__


def _capability():
    import cupy

    return cupy.cuda.Device().compute_capability


def _torch():
    import torch

    return f"{torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"


_CUDA = {
    "GPU": lambda: _properties()["name"].decode(),
    "compute capability": _capability,
    "SMs": lambda: _properties()["multiProcessorCount"],
    "L2 bytes": lambda: _properties()["l2CacheSize"],
    "memory bytes": lambda: _properties()["totalGlobalMem"],
    "CUDA driver": _runtime("driverGetVersion"),
    "CUDA runtime": _runtime("runtimeGetVersion"),
    "CuPy": _cupy,
    "NVRTC": _nvrtc,
    "cuBLAS": _cublas,
}
_TORCH = {"torch": _torch, "array-api-compat": _version("array-api-compat"), "NumPy": _version("numpy")}
