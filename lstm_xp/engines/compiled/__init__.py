"""What numba compiles for the engine `numpy_numba`."""

from numba import njit


def compiled(signature, **options):
    """Compile for a signature; kept on disk where that can be done: numba raises whatever a bad disk gives it."""

    def decorate(function):
        try:
            return njit(signature, cache=True, nogil=True, **options)(function)
        except Exception:
            return njit(signature, nogil=True, **options)(function)

    return decorate
