"""What numba compiles for the engine `numpy_numba`."""

from hashlib import sha256
from pathlib import Path

from numba import njit


def compiled(signature, **options):
    """Compile for a signature; kept on disk where that can be done: numba raises whatever a bad disk gives it."""

    def decorate(function):
        # numba keeps code under this name, and looks at the file of the function alone to see whether it is right.
        function.__qualname__ = f"{function.__name__}_{digest(Path(__file__).parent)}"
        try:
            return njit(signature, cache=True, nogil=True, **options)(function)
        except Exception:
            return njit(signature, nogil=True, **options)(function)

    return decorate


def digest(folder):
    """Another word for any other sources in a folder."""
    sources = sha256()
    for file in sorted(folder.glob("*.py")):
        sources.update(file.read_bytes())
    return sources.hexdigest()[:12]
