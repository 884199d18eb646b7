"""What arguments must be. Every error message of the functions on arrays is worded here, from metadata only.

Shapes, dtypes and devices are read, never values, so nothing is computed and no device is waited for
(the one exception: `lengths` given as host integers).
"""

from functools import cache, lru_cache
from importlib import import_module
from operator import index
from typing import Any, NamedTuple

import array_api_compat
import numpy as np

Array = Any

# What arrays may hold, and what is computed with: half types accumulate in float32.
COMPUTE_DTYPE = {
    "float16": "float32",
    "bfloat16": "float32",
    "float32": "float32",
    "float64": "float64",
    "complex128": "complex128",
}
PRECISIONS = ("ieee", "tf32", "tf32x3")


class EngineError(ValueError):
    """The engine that was asked for cannot run this problem."""


class Problem(NamedTuple):
    """What an engine may ask before it runs: the library, dtype and sizes of one call."""

    array_library: str
    dtype: str
    device: Any
    N: int
    T: int
    D: int
    H: int
    training: bool
    precision: str


def namespace(array):
    """The Array API namespace of an array, by array-api-compat."""
    # NumPy's own namespace conforms; array-api-compat's wrapper of it takes 60 to 140 ms to import.
    if isinstance(array, np.ndarray):
        return np
    return _cupy(type(array)) or array_api_compat.array_namespace(array)


@cache
def _cupy(kind):
    """CuPy's namespace, for its very own type of arrays; else None."""
    if (kind.__module__, kind.__name__) != ("cupy", "ndarray"):
        return None
    return import_module("array_api_compat.cupy")


@cache
def array_library(xp):
    """A namespace's library by its short name: numpy, cupy, torch, jax, dask, array_api_strict, ..."""
    return xp.__name__.removeprefix("array_api_compat.").partition(".")[0]


def dtype_name(dtype):
    """A dtype by its name alone, whatever the library calls it: torch.float32 -> float32.

    With bytes in the other order than this processor's, which is no dtype to compute with: >f4.
    """
    return _dtype_name(type(dtype), dtype)


@cache
def _dtype_name(kind, dtype):
    # Kept by the type, too: dtypes of two libraries may hash alike, and must not be compared.
    if not getattr(dtype, "isnative", True):
        return dtype.str
    return getattr(dtype, "name", None) or str(dtype).rpartition(".")[2]


def compute_dtype(array, xp):
    """The dtype that pre-activations, cell states and sums have for arrays of this dtype."""
    name = COMPUTE_DTYPE[dtype_name(array.dtype)]
    return array.dtype if name == dtype_name(array.dtype) else getattr(xp, name)


def itemsize(dtype):
    """Bytes per element."""
    return int("".join(filter(str.isdigit, dtype_name(dtype)))) // 8


def shape_of(function, name, array):
    """The shape as plain integers; arrays of unknown size (lazy libraries) are refused."""
    if type(array) is np.ndarray:
        return array.shape
    try:
        return tuple(map(index, array.shape))
    except (TypeError, ValueError):
        raise ValueError(
            f"{function}: {name} must have a known shape; got {tuple(array.shape)}. "
            f"Dask: call {name}.compute_chunk_sizes() first."
        ) from None


def device(array):
    """An array's device; None where it is not known yet (an array that JAX is tracing)."""
    if type(array) is np.ndarray:
        return "cpu"
    try:
        return array_api_compat.device(array)
    except Exception as error:
        if type(error).__module__.partition(".")[0] == "jax":
            return None
        raise


def one_library(function, arrays):
    """Check that the named arrays share one library, one floating dtype and one device; return xp and the device."""
    arrays = {name: array for name, array in arrays.items() if array is not None}
    first = next(iter(arrays.values()))
    found = _alike(first, arrays.values())
    if found:  # at a glance: nearly every call is this
        return found
    types = {}
    for name, array in arrays.items():
        types.setdefault(type(array), name)
    for kind, name in types.items():
        if kind is np.ndarray:
            continue
        # Matrices and masked arrays are ndarrays whose operators mean something else.
        foreign = any(base.__name__ in ("matrix", "MaskedArray") for base in kind.__mro__)
        if foreign or not array_api_compat.is_array_api_obj(arrays[name]):
            raise TypeError(
                f"{function}: {name} must be an array; got {kind.__name__}. "
                f"Convert it first, for example with numpy.asarray({name})."
            )
    if len(types) > 1:
        libraries = {name: array_library(namespace(array)) for name, array in arrays.items()}
        odd = next((name for name in libraries if libraries[name] != array_library(namespace(first))), None)
        if odd:
            raise TypeError(
                f"{function}: all arrays must come from one library; got {_listed(libraries)}. "
                f"Convert {odd} to {array_library(namespace(first))}: nothing is moved between libraries by itself."
            )
    if any(array.dtype != first.dtype for array in arrays.values()):
        dtypes = {name: dtype_name(array.dtype) for name, array in arrays.items()}
        raise TypeError(
            f"{function}: all arrays must share one dtype; got {_listed(dtypes)}. "
            f"Convert with astype: nothing is cast by itself.{_order_of_bytes(arrays)}"
        )
    dtype = dtype_name(first.dtype)
    if dtype not in COMPUTE_DTYPE:
        raise TypeError(
            f"{function}: arrays must have a floating dtype ({', '.join(COMPUTE_DTYPE)}); got {dtype}."
            f"{_order_of_bytes(arrays)}"
        )
    devices = {name: device(array) for name, array in arrays.items()}
    known = {name: place for name, place in devices.items() if place is not None}
    if any(place != next(iter(known.values())) for place in known.values()):  # CuPy's cannot be hashed
        raise ValueError(
            f"{function}: all arrays must lie on one device; got {_listed(known)}. "
            f"Move them first: nothing is moved between devices by itself."
        )
    xp, place = namespace(first), next(iter(devices.values()))
    if array_library(xp) == "cupy" and xp.cuda.Device() != place:
        raise ValueError(
            f"{function}: the arrays lie on cuda:{place.id}, but cuda:{xp.cuda.Device().id} is current, and CuPy makes "
            f"arrays on that one; call it inside of: with cupy.cuda.Device({place.id})."
        )
    return xp, place


def _order_of_bytes(arrays):
    """A hint, where some of the named arrays have their bytes in another order than this processor."""
    swapped = [name for name, array in arrays.items() if not getattr(array.dtype, "isnative", True)]
    if not swapped:
        return ""
    return (
        f" The bytes of {', '.join(swapped)} are in another order than this processor's: "
        f"use v.astype(v.dtype.newbyteorder('='))."
    )


def _alike(first, arrays):
    """xp and the device of NumPy's or CuPy's arrays that pass `one_library` without a closer look; else None."""
    kind, dtype = type(first), getattr(first, "dtype", None)
    xp = np if kind is np.ndarray else _cupy(kind)
    if xp is None or dtype_name(dtype) not in COMPUTE_DTYPE:
        return None
    for v in arrays:
        if type(v) is not kind or v.dtype is not dtype:
            return None
    if xp is np:
        return np, "cpu"
    place = xp.cuda.Device()
    for v in arrays:
        if v.data.device_id != place.id:
            return None
    return xp, place


def shapes(function, arrays, rules, context):
    """Check shapes: `rules` maps a name to (its shape in letters, its shape in numbers)."""
    for name, (letters, numbers) in rules.items():
        array = arrays[name]
        if array is None or array.shape == numbers:
            continue
        found = shape_of(function, name, array)
        if found == numbers:
            continue
        hint = ""
        if len(numbers) == 2 and found == numbers[::-1] and name in ("Wx", "Wh"):
            hint = (
                " It is the transpose: PyTorch keeps it so, with gate order i, f, g, o; "
                f"pass {name}.T with its columns in the order i, f, o, g."
            )
        raise ValueError(f"{function}: {name} must have shape {letters} = {numbers} for {context}; got {found}.{hint}")


def _rules(h, c, N, D, H):
    """The shapes of everything but x; `h` and `c` are what the states are called."""
    return {
        h: ("(N, H)", (N, H)),
        c: ("(N, H)", (N, H)),
        "Wx": ("(D, 4*H)", (D, 4 * H)),
        "Wh": ("(H, 4*H)", (H, 4 * H)),
        "b": ("(4*H,)", (4 * H,)),
    }


@lru_cache(maxsize=1024)
def _units(x, h0, Wx, Wh, b, c0):
    """H, of shapes (None: not given) that pass `sequence_arguments` without a closer look; else 0."""
    if len(x) != 3 or len(Wh) != 2:
        return 0
    (N, _, D), H = x, Wh[0]
    state = (N, H), None
    fits = h0 in state and c0 in state and Wx == (D, 4 * H) and Wh == (H, 4 * H) and b in ((4 * H,), None)
    return H if fits and D else 0


@lru_cache
def _sequence_shapes(N, T, D, H, like):
    """The shapes of a sequence's arguments, and which sizes they follow from; kept, for a call takes microseconds."""
    name, *shape = like
    return _rules("h0", "c0", N, D, H), f"x {(N, T, D)} and {name} {tuple(shape)}"


def _listed(values):
    return ", ".join(f"{name}: {value}" for name, value in values.items())


def step_arguments(function, x, prev_h, prev_c, Wx, Wh, b):
    """Check the arguments of a time step; return xp."""
    arrays = {"x": x, "prev_h": prev_h, "prev_c": prev_c, "Wx": Wx, "Wh": Wh, "b": b}
    xp, _ = one_library(function, required(function, arrays, optional=("b",)))
    N, D = _dimensions(function, "x", x, "(N, D)", "For a whole sequence (N, T, D) use lstm_forward.")
    _, H = _dimensions(function, "prev_h", prev_h, "(N, H)")
    _sizes(function, D=D, H=H)
    rules = _rules("prev_h", "prev_c", N, D, H)
    shapes(function, arrays, rules, f"x {(N, D)} and prev_h {tuple(prev_h.shape)}")
    return xp


def sequence_arguments(function, x, h0, Wx, Wh, b, c0, training, precision):
    """Check the arguments of a sequence; return xp and the `Problem`."""
    given = x, h0, Wx, Wh, b, c0
    if precision is None or precision in PRECISIONS:
        found = _alike(x, [v for v in given if v is not None])
        if found and Wx is not None and Wh is not None:
            xp, device = found
            H = _units(*(None if v is None else v.shape for v in given))
            if H:  # nearly every call, in a fifth of the time
                return xp, problem(x, device, H, training, precision, xp)
    arrays = dict(zip(("x", "h0", "Wx", "Wh", "b", "c0"), given, strict=True))
    xp, device = one_library(function, required(function, arrays, optional=("h0", "c0", "b")))
    N, T, D = _dimensions(function, "x", x, "(N, T, D)", "For one step (N, D) use lstm_step_forward.")
    if h0 is not None:
        like = "h0", *_dimensions(function, "h0", h0, "(N, H)")
        H = like[2]
    else:
        like = "Wh", *_dimensions(function, "Wh", Wh, "(H, 4*H)")
        H = like[1]
    _sizes(function, D=D, H=H)
    shapes(function, arrays, *_sequence_shapes(N, T, D, H, like))
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(f"{function}: precision must be one of {', '.join(PRECISIONS)}, or None; got {precision!r}.")
    return xp, problem(x, device, H, training, precision, xp)


def problem(x, device, H, training, precision, xp):
    """The `Problem` of a sequence x (N, T, D) that was checked."""
    dtype = dtype_name(x.dtype)
    if COMPUTE_DTYPE[dtype] != dtype:
        precision = "tf32"  # which has all the digits of a half type, and the range of the float32 it is widened to
    return Problem(array_library(xp), dtype, device, *map(int, x.shape), H, bool(training), precision or "ieee")


def sequence_lengths(function, lengths, x, xp):
    """Check `lengths`; return them as integers (N,) on the device of x, or None where every row is full.

    Host integers are validated; an array of a device is clamped there, so that it is not waited for.
    """
    if lengths is None:
        return None
    N, T, _ = x.shape
    hosted = not array_api_compat.is_array_api_obj(lengths) or isinstance(lengths, np.ndarray)
    if hosted:
        values = np.asarray(lengths)
        if values.size == 0:
            values = values.astype(np.int64)
    else:
        values = lengths
        if array_library(namespace(values)) != array_library(xp):
            raise TypeError(
                f"{function}: lengths must be host integers or come from the library of x ({array_library(xp)}); "
                f"got {array_library(namespace(values))}."
            )
    if tuple(values.shape) != (N,):
        raise ValueError(f"{function}: lengths must have shape (N,) = {(N,)} for x {(N, T, x.shape[2])}; "
                         f"got {tuple(values.shape)}.")  # fmt: skip
    if not namespace(values).isdtype(values.dtype, "integral"):
        raise TypeError(f"{function}: lengths must be integers; got {dtype_name(values.dtype)}.")
    if not hosted:
        # Counting places in the batch takes more than a narrow integer holds.
        values = xp.astype(values, xp.arange(1).dtype)
        # Not `clip`: for CuPy, array-api-compat's picks elements by a mask, and so waits for the device.
        values = xp.where(values < 0, xp.zeros_like(values), values)
        return xp.where(values > T, xp.full_like(values, T), values)
    wrong = np.flatnonzero((values < 0) | (values > T))
    if wrong.size:
        raise ValueError(
            f"{function}: lengths must lie between 0 and T = {T}; got lengths[{wrong[0]}] = {values[wrong[0]]}."
        )
    if np.all(values == T):
        return None
    if array_library(xp) == "cupy" and xp.cuda.get_current_stream().is_capturing():
        raise ValueError(
            f"{function}: lengths must be an array of the device in a recorded call; got host integers, which would "
            f"have to be copied at each replay."
        )
    return xp.asarray(values.astype(np.int64), device=device(x))


def cotangents(function, arrays, rules, like, context):
    """Check the gradients handed to a backward function against the array `like` of the forward call."""
    given = {name: array for name, array in arrays.items() if array is not None}
    if not given:
        raise ValueError(f"{function}: at least one of {', '.join(arrays)} must be given; got None for all.")
    one_library(function, {**given, "the cache": like})
    shapes(function, arrays, rules, context)


def required(function, arrays, optional=()):
    """Check that the named arrays are there; return them."""
    for name, array in arrays.items():
        if array is None and name not in optional:
            raise TypeError(f"{function}: {name} must be an array; got None.")
    return arrays


def _dimensions(function, name, array, letters, hint=""):
    found = shape_of(function, name, array)
    if len(found) != letters.count(",") + 1:
        raise ValueError(f"{function}: {name} must have shape {letters}; got {found}. {hint}".rstrip())
    return found


def _sizes(function, **sizes):
    for letter, size in sizes.items():
        if size == 0:
            raise ValueError(f"{function}: {letter} must be at least 1; got {letter} = 0.")
