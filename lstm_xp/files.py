"""Files are written whole or not at all, and replaced only by those who say so."""

import errno
import os
from pathlib import Path


def check_free(path, overwrite=False):
    """Refuse to replace a file without overwrite."""
    if not overwrite and Path(path).exists():
        raise FileExistsError(errno.EEXIST, "exists already: choose another name, or say overwrite", str(path))


def write_atomically(path, data):
    """Put bytes into a file such that whoever reads it, at whatever moment, finds the old content or the new, whole."""
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
