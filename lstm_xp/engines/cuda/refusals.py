"""What the engines for CUDA refuse alike."""

from functools import cache

from .device import chip

# Compute capability, times ten, from which on cuBLAS multiplies a dtype as it is needed here.
LEAST = {"float16": 75, "bfloat16": 80, "float32": 75, "float64": 75}
# Kernels and cuBLAS count in 32 bits.
COUNT = 2**31


def refusal(problem, dtypes, least=0):
    """Why arrays of this library, of this dtype or on this device cannot be had; "" if they can.

    `least` is a compute capability, times ten; with 0, the device is not looked at.
    """
    if problem.array_library != "cupy":
        return f"it needs CuPy arrays, these are {problem.array_library}'s"
    if problem.dtype not in dtypes:
        return f"it computes {', '.join(dtypes)}, not {problem.dtype}"
    if least and (found := chip(problem.device.id).capability) < least:
        return f"it needs compute capability {least / 10}, this device has {found / 10}"
    return ""


def of_products(problem):
    """Why stages one and three, which are products by cuBLAS, cannot be had; "" if they can."""
    least, found = LEAST[problem.dtype], chip(problem.device.id).capability
    if found < least:
        return f"{problem.dtype} needs compute capability {least / 10}, this device has {found / 10}"
    N, T, D, H = problem.N, problem.T, problem.D, problem.H
    if max(4 * N * H, N * T, D + H + 1) >= COUNT:
        return f"4 N H and N T must be below 2^31; N = {N}, T = {T}, H = {H}"
    return obstacle()


@cache
def obstacle():
    """Why cuBLAS cannot be used with this CuPy; "" when it can."""
    try:
        from cupy_backends.cuda.libs import cublas  # noqa: F401
    except ImportError as error:
        return f"cuBLAS cannot be loaded ({' '.join(str(error).split())})"
    return ""
