"""Files of named arrays, .safetensors and .npz: all that a file claims is checked before memory is taken for it.

A header says how large everything is. It may be damaged, or written to harm: so sizes must agree with each other and
with the size of the file, names must be plain and different, dtypes must be numbers. Nothing is unpickled.

References: safetensors, https://github.com/huggingface/safetensors, "Format"; the .npy format,
https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html; APPNOTE 6.3.10 of PKWARE for zip files.
"""

import contextlib
import errno
import io
import json
import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from .. import checks
from ..files import write_atomically
from ..libraries import to_numpy
from .packages import package

HEADER_LIMIT = 1 << 24
"""Most bytes of a header of names and shapes."""

NAME_LIMIT = 500
"""Most letters of a name."""

AXES = 64
"""Most axes of an array, as in NumPy."""

INFLATION = 16
"""Compressed arrays may be this many times as large as their file: weights are hardly compressible."""

SMALL = 1 << 24
"""Bytes that compressed arrays may take in any case."""

METADATA = "lstm_xp"
"""Key of this package's own metadata, a JSON text."""

SUFFIXES = (".safetensors", ".npz")
_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "U64": 64, "I32": 32, "U32": 32, "I16": 16, "U16": 16,
         "I8": 8, "U8": 8, "BOOL": 8, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8}  # fmt: skip
_FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# What reading a damaged zip file or .npy header may raise.
_ZIP_ERRORS = (ValueError, zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, RuntimeError, EOFError,
               KeyError, OverflowError, IndexError, TypeError, SyntaxError, SystemError,
               tokenize.TokenError)  # fmt: skip


class FileError(ValueError):
    """A file is damaged, or claims what cannot be; the message begins with its path."""


class Entry(NamedTuple):
    """What a file says of one array."""

    dtype: str
    shape: tuple[int, ...]


def entries(path):
    """The arrays of a file: name -> `Entry`, in the file's order. Only headers are read.

    Raises
    ------
    FileError
        If the file is damaged, or claims what cannot be: a ValueError.
    """
    return _reader(path)(path)[0]


def metadata(path):
    """The JSON object that this package keeps in a file; None if it has none."""
    text = _reader(path)(path)[1]
    return None if text is None else parse_json(str(path), text)


def read(path, names=None):
    """The arrays of these names (all for None), as NumPy arrays of a floating dtype."""
    found = entries(path)
    names = list(found if names is None else names)
    for name in names:
        if name not in found:
            raise FileError(f"{path}: there is no array {name!r}.")
        if found[name].dtype not in _FLOATS.values():
            raise FileError(f"{path}: {name} is {found[name].dtype}; it must be {', '.join(_FLOATS.values())}.")
    return (_load_safetensors if Path(path).suffix.lower() == ".safetensors" else _load_npz)(path, names)


def write(path, arrays, about=None):
    """Write NumPy arrays, and a JSON object of metadata, whole or not at all."""
    path = Path(path)
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    text = None if about is None else json.dumps(about, allow_nan=False)
    if path.suffix.lower() == ".safetensors":
        data = package("safetensors.numpy").save(arrays, metadata=None if text is None else {METADATA: text})
    elif path.suffix.lower() == ".npz":
        narrow = next((name for name, array in arrays.items() if array.dtype.name == "bfloat16"), None)
        if narrow:
            raise FileError(f"{path}: {narrow} is bfloat16, which .npz lacks: write .safetensors, or another dtype.")
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays, **({} if text is None else {METADATA: np.array(text)}))
        data = buffer.getvalue()
    else:
        raise FileError(f"{path}: the suffix must be one of {', '.join(SUFFIXES)}.")
    write_atomically(path, data)


def host(array):
    """An array of any library on the host, with the same bits: bfloat16 by way of float32, from which it comes back."""
    if checks.dtype_name(array.dtype) != "bfloat16":
        return to_numpy(array)
    return to_numpy(array).astype(package("ml_dtypes").bfloat16)


def parse_json(where, text):
    """A JSON text, strictly: no NaN, no name twice, no nesting without end; FileError otherwise."""

    def finite(word):
        if not math.isfinite(float(word)):
            raise ValueError(f"the number {word}")
        return float(word)

    def unique(pairs):
        if len(dict(pairs)) < len(pairs):
            raise ValueError("one name twice")
        return dict(pairs)

    try:
        return json.loads(text, parse_constant=finite, parse_float=finite, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{where}: the JSON of its header or metadata is not valid: {_line(error)}.") from None


def _reader(path):
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise FileError(f"{path}: the suffix must be one of {', '.join(SUFFIXES)}.")
    return _scan_safetensors if suffix == ".safetensors" else _scan_npz


def _check_name(path, name):
    """Names are shown to people: they must not write into a terminal what they like."""
    if not name.isprintable() or len(name) > NAME_LIMIT:
        raise FileError(
            f"{path}: an array is called {name[:40]!r}: names must be printable, of {NAME_LIMIT} letters at most."
        )


def _line(error):
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")


# safetensors


def _scan_safetensors(path):
    size = Path(path).stat().st_size
    with open(path, "rb") as file:
        first = file.read(8)
        claimed = int.from_bytes(first, "little")
        if len(first) < 8 or claimed > size - 8:
            raise FileError(
                f"{path}: cut short, or no safetensors file: its header claims {claimed} bytes, the file has {size}."
            )
        if claimed > HEADER_LIMIT:
            raise FileError(f"{path}: its header claims {claimed} bytes; the most that is read is {HEADER_LIMIT}.")
        header = file.read(claimed)
    try:
        header = parse_json(path, header.decode("utf-8"))
    except UnicodeDecodeError:
        raise FileError(f"{path}: its header is no UTF-8 text.") from None
    if not isinstance(header, dict):
        raise FileError(f"{path}: its header is no JSON object.")
    about = header.pop("__metadata__", {})
    if not isinstance(about, dict) or not all(isinstance(value, str) for value in about.values()):
        raise FileError(f"{path}: its metadata are not texts by name.")
    found, spans = {}, []
    for name, entry in header.items():
        _check_name(path, name)
        found[name], span = _safetensors_entry(path, name, entry)
        spans.append(span)
    end = 0
    for begin, stop in sorted(spans):
        if begin != end:
            raise FileError(f"{path}: its arrays overlap or leave gaps, at byte {min(begin, end)} of the data.")
        end = stop
    if end != size - 8 - claimed:
        raise FileError(f"{path}: its arrays take {end} bytes, the file has {size - 8 - claimed} for them.")
    return found, about.get(METADATA)


def _safetensors_entry(path, name, entry):
    try:
        dtype, shape, (begin, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = [*shape, begin, stop]
        valid = len(entry) == 3 and len(shape) <= AXES and dtype in _BITS
        valid = valid and all(type(v) is int and 0 <= v < 1 << 62 for v in numbers)
    except (KeyError, TypeError, ValueError):
        valid = False
    if not valid:
        raise FileError(f"{path}: its header has no valid dtype, shape and offsets for {name!r}.")
    if math.prod(shape) * _BITS[dtype] // 8 != stop - begin:
        raise FileError(f"{path}: {name} is {dtype} {tuple(shape)}, but has {stop - begin} bytes.")
    return Entry(_FLOATS.get(dtype, dtype), tuple(shape)), (begin, stop)


def _load_safetensors(path, names):
    safetensors = package("safetensors")
    if any(entry.dtype == "bfloat16" for name, entry in entries(path).items() if name in names):
        package("ml_dtypes")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in names}
    except (safetensors.SafetensorError, TypeError, AttributeError) as error:
        raise FileError(f"{path}: {_line(error)}.") from None


# npz


def _scan_npz(path):
    with _archive(path) as archive:
        found, text = {}, None
        for name, member in _members(path, archive).items():
            with archive.open(member) as file:
                found[name] = _npy_header(path, name, member, file)
        if METADATA in found:
            about, held = found.pop(METADATA), archive.getinfo(f"{METADATA}.npy").file_size
            if not about.dtype.startswith("str") or about.shape or held > HEADER_LIMIT:
                raise FileError(f"{path}: {METADATA} is no text of at most {HEADER_LIMIT} bytes.")
            text = str(_npy(archive, METADATA))
        return found, text


@contextlib.contextmanager
def _archive(path):
    """A zip file; whatever is wrong with it is a FileError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what reading a sound file never warns of
            with zipfile.ZipFile(path) as archive:
                yield archive
    except FileError:
        raise
    except (*_ZIP_ERRORS, Warning, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # that one: a seek before the file's beginning
            raise
        raise FileError(f"{path}: damaged, or no .npz file: {_line(error)}.") from None


def _npy(archive, name):
    with archive.open(f"{name}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _members(path, archive):
    """The arrays of a zip file by name, once it is clear that they fit into it."""
    size, members, total = Path(path).stat().st_size, {}, 0
    for member in archive.infolist():
        name = member.filename
        if not name.endswith(".npy") or ".." in PurePosixPath(name).parts or name.startswith("/") or "\\" in name:
            raise FileError(f"{path}: it holds {name!r}, which is no array of an .npz file.")
        name = name.removesuffix(".npy")
        _check_name(path, name)
        if name in members:
            raise FileError(f"{path}: it holds {name} twice.")
        if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise FileError(f"{path}: {name} is encrypted, or compressed by an unusual method.")
        if member.compress_type == zipfile.ZIP_STORED and member.file_size != member.compress_size:
            raise FileError(f"{path}: {name} claims {member.file_size} bytes and {member.compress_size}.")
        members[name] = member
        total += member.file_size
    most = max(SMALL, INFLATION * size)
    if total > most:
        raise FileError(
            f"{path}: it would inflate to {total} bytes from {size}; the most is {most}. "
            "Write it with numpy.savez, which does not compress."
        )
    return members


def _npy_header(path, name, member, file):
    """What the header of one array says; its claims must agree with the size of the member."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise FileError(f"{path}: {name} has version {version} of the .npy format; read are 1.0 and 2.0.")
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, _, dtype = reader(file)
    except MemoryError:  # so Python's parser calls too deep a nesting
        raise FileError(f"{path}: {name} has no valid header.") from None
    if dtype.kind not in "fiubcUV" or dtype.fields or dtype.subdtype:
        raise FileError(f"{path}: {name} is an array of {dtype}: only numbers are read, nothing is unpickled.")
    if any(type(v) is not int or v < 0 for v in shape):
        raise FileError(f"{path}: {name} claims the shape {shape}.")
    claimed, held = math.prod(shape) * dtype.itemsize, member.file_size - file.tell()
    if claimed != held:
        raise FileError(f"{path}: {name} claims {claimed} bytes for {dtype} {shape}; there are {held}.")
    return Entry(dtype.name, shape)


def _load_npz(path, names):
    with _archive(path) as archive:
        arrays = {name: _npy(archive, name) for name in names}
    return {name: array.astype(array.dtype.newbyteorder("="), copy=False) for name, array in arrays.items()}
