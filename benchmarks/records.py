"""Results as files: one JSON record per line, and the replacing of a file at one blow."""

import json
import os
import tempfile
from pathlib import Path

NEEDED = {"contender", "what", "size", "N", "T", "D", "H", "dtype", "failed", "machine"}


class BadFile(Exception):
    """A file is not there, or not what it should be; the message says so in one line."""


def read(file):
    """The records of a file that `write` made."""
    try:
        records = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise BadFile(f"{file}: {getattr(error, 'strerror', None) or 'not a text'}") from None
    except json.JSONDecodeError:
        raise BadFile(f"{file}: not a file of JSON lines; make one with --out") from None
    if not records or not all(isinstance(record, dict) and NEEDED <= set(record) for record in records):
        raise BadFile(f"{file}: holds no benchmark records; make one with --out")
    return records


def write(file, records):
    """The records, one per line."""
    replace(file, "".join(json.dumps(record) + "\n" for record in records))


def replace(file, content):
    """Write a file, of text or bytes, so that it is, at any moment, either the old one or the new one, whole."""
    file = Path(file)
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
    try:
        with open(descriptor, "wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes a private file; a result is as readable as any other file.
        os.chmod(temporary, file.stat().st_mode & 0o777 if file.exists() else 0o644)
        os.replace(temporary, file)
    except BaseException:
        os.unlink(temporary)
        raise
