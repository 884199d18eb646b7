"""Files are written whole or not at all, and replaced only by those who say so."""

import contextlib
import errno
import os
from pathlib import Path


def check_free(path, overwrite=False):
    """Refuse to replace a file without overwrite, and a directory at all."""
    if Path(path).is_dir():
        raise _is_a_directory(path)
    if not overwrite and Path(path).exists():
        raise FileExistsError(errno.EEXIST, "exists already: choose another name, or say overwrite", str(path))


def write_atomically(path, data):
    """Put bytes into a file such that whoever reads it, at whatever moment, finds the old content or the new, whole."""
    path = Path(path)
    if path.is_dir():
        raise _is_a_directory(path)
    part = path.with_name(f".{path.name}.part")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        # The name of the file that was asked for, and what is wrong with its folder: of the other nobody knows.
        raise OSError(error.errno, _reason(path.parent, error), str(path)) from None


def _is_a_directory(path):
    return IsADirectoryError(errno.EISDIR, "is a directory: name a file", str(path))


def _reason(folder, error):
    """Why nothing can be written into a folder, in words."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR) and not folder.is_dir():
        what = "is none: choose another" if folder.exists() else "does not exist: make it, or choose another"
        return f"the folder {folder} {what}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"the folder {folder} cannot be written into ({error.strerror}): choose another"
    return error.strerror or str(error)
