"""The array library of a device."""

import importlib

from lstm_xp.libraries import Missing, open_library

from .errors import UserError


def namespace_of(device):
    """The namespace whose arrays lie on a device, and the device's name: NumPy for "cpu", CuPy for "cuda".

    "auto" is "cuda" where CuPy is installed and a GPU answers, else "cpu". CuPy is not imported for "cpu".
    """
    if device in ("auto", "cuda"):
        problem = _cuda_problem()
        if not problem:
            return importlib.import_module("array_api_compat.cupy"), "cuda"
        if device == "cuda":
            raise UserError(f"--device cuda: {problem}; or use --device cpu")
    return importlib.import_module("array_api_compat.numpy"), "cpu"


def blas_threads(count):
    """A context in which NumPy's BLAS works with so many threads.

    At the sizes of one time step a second thread gains little, and while another program keeps a core busy, threads
    that wait for each other in every product are ten times slower. A fixed number also keeps the last bits the same.
    """
    return importlib.import_module("threadpoolctl").threadpool_limits(count, user_api="blas")


def _cuda_problem():
    """Why nothing can be computed on a GPU, and what to do; "" where it can."""
    try:
        xp = open_library("cupy").xp
        # A device may be listed and yet not work: let it compute.
        works = int(xp.sum(xp.arange(3))) == 3
    except Missing as error:
        return (
            f"{error}: install CuPy by pip install cupy-cuda12x (or cupy-cuda13x), and see that nvidia-smi lists a GPU"
        )
    except Exception as error:  # CuPy raises errors of many kinds where a driver, a compiler or a library is missing
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return f"the GPU does not answer ({first}): see that nvidia-smi lists it"
    return "" if works else "the GPU computes wrong sums: see nvidia-smi"
