"""The array libraries and devices of a machine: one table, for checks and tests. None is imported until asked for."""

import re
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from . import checks

# Name -> the module that has the namespace, and the device (None: the library's default).
LIBRARIES = {
    "numpy": ("numpy", None),
    "array-api-strict": ("array_api_strict", "device1"),
    "torch": ("array_api_compat.torch", "cpu"),
    "torch-cuda": ("array_api_compat.torch", "cuda"),
    "jax": ("jax.numpy", "cpu"),
    "dask": ("array_api_compat.dask.array", None),
    "cupy": ("array_api_compat.cupy", "cuda"),
}
DTYPES = ("float64", "float32", "float16", "bfloat16")


class Missing(Exception):
    """A library is not installed, or its device is not there; the message says which."""


class Library(NamedTuple):
    """An array library on one device, with the way in and out from NumPy."""

    name: str
    xp: Any
    device: Any

    @property
    def place(self):
        """The device in short: cpu, cuda:0, device1."""
        if checks.array_library(self.xp) == "cupy":
            return f"cuda:{self.device.id}"
        return re.findall(r"[\w:]+", str(self.device or "cpu"))[-1]

    def asarray(self, array, dtype=None):
        """A NumPy array as one of this library on this device, of the dtype of that name."""
        array = np.asarray(array)
        dtype = dtype or array.dtype.name
        if dtype == "bfloat16":
            return self.xp.astype(self.asarray(array, "float32"), self.bfloat16)
        array = array.astype(dtype)
        if checks.array_library(self.xp) == "dask":
            return self.xp.asarray(array)
        return self.xp.asarray(array, device=self.device)

    def to_numpy(self, array):
        """An array of this library as a NumPy array; bfloat16 as float32."""
        return to_numpy(array)

    def dtypes(self):
        """The floating dtypes that this library has on this device, by name."""
        return tuple(name for name in DTYPES if self._has(name))

    @property
    def bfloat16(self):
        """The library's dtype bfloat16, or None. CuPy computes with ml_dtypes', but has no name for it."""
        if checks.array_library(self.xp) == "cupy" and find_spec("ml_dtypes"):
            return np.dtype(import_module("ml_dtypes").bfloat16)
        return getattr(self.xp, "bfloat16", None)

    def _has(self, name):
        if name == "bfloat16":
            return self.bfloat16 is not None
        if not hasattr(self.xp, name):
            return False
        # JAX without its 64-bit mode has the name float64, but makes float32 arrays.
        return name != "float64" or checks.dtype_name(self.asarray(np.zeros(1)).dtype) == "float64"


def open_library(name):
    """The library of that name in the table; `Missing` where it, or its device, is not there."""
    module, device = LIBRARIES[name]
    root = module.removeprefix("array_api_compat.").partition(".")[0]
    if find_spec(root) is None:
        raise Missing(f"{root} is not installed")
    xp, version = import_module(module), import_module(root).__version__
    if root == "cupy":
        try:
            device = xp.cuda.Device()
            device.compute_capability  # noqa: B018  asks the driver
        except xp.cuda.runtime.CUDARuntimeError as error:
            raise Missing(f"CuPy {version} finds no GPU ({str(error).partition(':')[0]})") from None
    elif root == "torch":
        if device == "cuda" and not xp.cuda.is_available():
            raise Missing(f"torch {version} finds no GPU")
        device = xp.device(device)
    elif root == "jax":
        device = import_module("jax").devices(device)[0]
    elif root == "array_api_strict":
        device = xp.Device(device)
    return Library(name, xp, device)


def to_numpy(array):
    """Any library's array as a NumPy array on the host; bfloat16, which NumPy lacks, as float32."""
    xp = checks.namespace(array)
    if checks.dtype_name(array.dtype) == "bfloat16":
        array = xp.astype(array, xp.float32)
    root = checks.array_library(xp)
    if root == "torch":
        return array.detach().cpu().numpy()
    if root == "cupy":
        return array.get()
    if root == "array_api_strict":
        return np.array(np.from_dlpack(array.to_device(xp.Device("CPU_DEVICE"))))
    return np.asarray(array)
