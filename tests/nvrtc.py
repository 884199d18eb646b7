"""NVRTC, the compiler that CuPy uses, by ctypes: from NVIDIA's wheel, with neither CuPy nor a driver."""

import ctypes
import re
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple


class Resources(NamedTuple):
    """What ptxas says of a kernel: registers of a thread; bytes of its stack and spilled; of its block's memory."""

    registers: int
    stack: int
    spilled: int
    shared: int


def load():
    """The wheel's library; None where it is not installed."""
    nvidia = find_spec("nvidia")
    folders = list(nvidia.submodule_search_locations) if nvidia else []
    found = [file for folder in folders for file in sorted(Path(folder).glob("*/lib/libnvrtc.so.*"))]
    found = [file for file in found if file.name.count(".") == 2]  # not its variant "alt"
    return ctypes.CDLL(str(found[0])) if found else None


def version(library):
    """(major, minor)."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(library, library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return major.value, minor.value


def architectures(library):
    """What it compiles for: 75, 80, ..."""
    count = ctypes.c_int()
    _check(library, library.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
    numbers = (ctypes.c_int * count.value)()
    _check(library, library.nvrtcGetSupportedArchs(numbers))
    return tuple(numbers)


def compile(library, source, names, target, options=()):
    """Compile kernels, by their C++ names, for a target (sm_90, or compute_90 for PTX alone).

    Returns PTX, the `Resources` of each name, and everything that the compiler wrote.
    """
    program = ctypes.c_void_p()
    _check(library, library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"source.cu", 0, None, None))
    try:
        for name in names:
            _check(library, library.nvrtcAddNameExpression(program, name.encode()))
        flags = [f"-arch={target}", *(["--ptxas-options=-v"] if target.startswith("sm_") else []), *options]
        given = (ctypes.c_char_p * len(flags))(*map(str.encode, flags))
        status = library.nvrtcCompileProgram(program, len(flags), given)
        log = _text(library, program, "ProgramLog")
        assert not status, f"{target}: {log}"
        lowered, pointer = {}, ctypes.c_char_p()
        for name in names:
            _check(library, library.nvrtcGetLoweredName(program, name.encode(), ctypes.byref(pointer)))
            lowered[name] = pointer.value.decode()
        ptx = _text(library, program, "PTX")
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))
    return ptx, _resources(log, lowered), log, lowered


def _resources(log, lowered):
    """The figures of `ptxas -v`, by C++ name."""
    found = {}
    for part in re.split(r"Compiling entry function ", log)[1:]:
        mangled = re.match(r"'(\w+)'", part)[1]
        memory = re.search(r"(\d+) bytes stack.* (\d+) bytes spill.* (\d+) bytes", part)
        stack, stores, loads = map(int, memory.groups())
        shared = re.search(r"(\d+) bytes smem", part)
        registers = int(re.search(r"Used (\d+) registers", part)[1])
        found[mangled] = Resources(registers, stack, stores + loads, int(shared[1]) if shared else 0)
    return {name: found[mangled] for name, mangled in lowered.items() if mangled in found}


def _text(library, program, what):
    size = ctypes.c_size_t()
    _check(library, getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(library, getattr(library, f"nvrtcGet{what}")(program, buffer))
    return buffer.raw.rstrip(b"\0").decode()


def _check(library, status):
    if status:
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise RuntimeError(library.nvrtcGetErrorString(status).decode())
