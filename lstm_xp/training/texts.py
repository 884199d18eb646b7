"""Which text is read, and its split into train, validation and test."""

import hashlib
import os
import platform
import stat
import sysconfig
from pathlib import Path
from typing import NamedTuple

from .errors import UserError

TEST_BYTES = 100_000
"""The test text is the first so many bytes of its part."""

VALIDATION_BYTES = 100_000
"""Likewise for validation."""

MAXIMUM_BYTES = 16_000_000
"""No more than this is read of the standard library."""

SHORTEST = 2000
"""A file shorter than this cannot be split into parts that say anything."""

FILES = 20
"""From so many files on, whole files are set aside; fewer are joined and cut."""

ONE_FILE_IN = 10
"""One file in so many goes to validation, and one to the test."""

ONE_MODULE_IN, LONGEST_MODULE = 6, 10_000
"""For the standard library. Longer modules are only trained on: the test shall be of thirty modules, not of three."""

# Tests, a program with its own test data, and tables or texts wrapped into Python: not what people write by hand.
_SKIPPED = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idlelib", "lib2to3", "turtledemo",
            "encodings", "pydoc_data", "stringprep.py"}  # fmt: skip


class Texts(NamedTuple):
    """The three parts of the data, and in words where they come from."""

    train: bytes
    validation: bytes
    test: bytes
    source: str

    def digests(self):
        """SHA-256 of each part, by its name: what a checkpoint remembers of the data."""
        return {name: hashlib.sha256(getattr(self, name)).hexdigest() for name in ("train", "validation", "test")}


def read_texts(files):
    """The texts of the given files, or of the interpreter's standard library where none are given.

    Parameters
    ----------
    files : sequence of path
        Any files. From 20 on, whole files are set aside for validation and test; fewer are joined, and the last tenth
        of the whole is set aside.

    Raises
    ------
    UserError
        If a file is missing, unreadable, not a regular file, or too short.
    """
    if not files:
        return standard_library()
    contents = _distinct([_read(Path(file)) for file in files])
    total = sum(map(len, contents))
    if total < SHORTEST:
        what = f"{files[0]} has" if len(files) == 1 else f"the {len(files)} files together have"
        raise UserError(f"{what} only {total} bytes: a text to learn from needs at least {SHORTEST}")
    source = Path(files[0]).name if len(files) == 1 else f"{len(files)} files"
    return split_by_file(contents, source) if len(contents) >= FILES else split_in_place(b"".join(contents), source)


def standard_library():
    """The Python sources of the running interpreter's standard library: real text that is already there.

    The order is that of the SHA-256 of each file's path, which mixes the packages and is the same everywhere; files
    that cannot be read are left out, and so are tests, tables and whatever else is installed beside the library.
    """
    root = Path(sysconfig.get_path("stdlib"))
    names = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in _SKIPPED]
        names += [
            (Path(folder) / name).relative_to(root).as_posix()
            for name in files
            if name.endswith(".py") and name not in _SKIPPED
        ]
    contents, total = [], 0
    for name in sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest()):
        try:
            content = (root / name).read_bytes()
        except OSError:
            continue
        if total + len(content) <= MAXIMUM_BYTES:
            contents.append(content)
            total += len(content)
    contents = _distinct(contents)
    if len(contents) < FILES:
        raise UserError(f"there are no Python sources in {root}: name a text file to learn from")
    source = f"Python {platform.python_version()} standard library, {len(contents)} files"
    return split_by_file(contents, source, one_in=ONE_MODULE_IN, longest=LONGEST_MODULE)


def split_by_file(contents, source, *, one_in=ONE_FILE_IN, longest=None):
    """One file in so many to the test, and one to validation; the others, and those that are too long, to training."""
    parts = {"train": [], "validation": [], "test": []}
    for k, content in enumerate(contents):
        part = {0: "test", one_in // 2: "validation"}.get(k % one_in, "train")
        parts["train" if longest and len(content) > longest else part].append(content)
    train, validation, test = (b"".join(part) for part in parts.values())
    if min(len(test), len(validation)) < SHORTEST // ONE_FILE_IN:
        # The files that were to be set aside hold next to nothing.
        return split_in_place(b"".join(contents), source)
    return Texts(train, validation[:VALIDATION_BYTES], test[:TEST_BYTES], source)


def split_in_place(text, source):
    """The last twentieth of a text to the test, the one before to validation, what comes earlier to training."""
    size = len(text) // 20
    validation, test = text[-2 * size : -size], text[-size:]
    return Texts(text[: -2 * size], validation[:VALIDATION_BYTES], test[:TEST_BYTES], source)


def _read(path):
    """The bytes of a regular file that holds some."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise UserError(f"{path} is a directory: name the text files in it, for example {path}/*.txt")
        if not stat.S_ISREG(mode):
            raise UserError(f"{path} is not a regular file: save the text in a file first")
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: check the name of the text file") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its permissions") from None
    if not content:
        raise UserError(f"{path} is empty: name a file with text in it")
    return content


def _distinct(contents):
    """The same list without repetitions, so that no text lands both in training and in the test."""
    return list(dict.fromkeys(contents))
