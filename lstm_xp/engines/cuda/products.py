"""Matrix products by cuBLAS, each with its compute type: CuPy's own choice of TF32 holds for the whole process."""

from functools import cache

import numpy as np

from ...checks import COMPUTE_DTYPE, dtype_name
from . import blas
from .capture import capturing, is_captured

# Read by cuBLAS while it is called.
SCALARS = {dtype: (np.zeros(1, dtype), np.ones(1, dtype)) for dtype in ("float32", "float64")}
DATA_TYPES = {
    "float16": "CUDA_R_16F",
    "bfloat16": "CUDA_R_16BF",
    "float32": "CUDA_R_32F",
    "float64": "CUDA_R_64F",
}


@cache
def computed_with(dtype):
    """The compute dtype for arrays of a dtype."""
    wide = np.dtype(COMPUTE_DTYPE[dtype_name(dtype)])
    return dtype if dtype == wide else wide


def factor_dtype(weights, computed):
    """What gradients of pre-activations are stored as, and multiplied: bfloat16 for itself, which has the range of what
    is computed with; float16 has not."""
    return weights if weights.name == "bfloat16" else computed


class Product:
    """out = A @ B, or with `add` out += A @ B: settled once, to be called with any addresses of A and out.

    A (M, K) and B (K, N) are matrices of one dtype and of any strides, out (M, N) is contiguous and of the dtype in
    which is summed, or, without `add`, of theirs: rounded once. cuBLAS counts columns first, where this out is the
    (N, M) matrix B^T @ A^T. Each call goes to the stream that is current then. The handle belongs to this thread and
    the current device, and so does a Product.
    """

    def __init__(self, A, B, out, *, add=False, precision="ieee"):
        (M, K), N = A.shape, B.shape[1]
        (A, *of_A), (B, *of_B) = layout(A), layout(B)
        self.arrays = A, B, out  # alive for as long as their addresses are in use
        kinds = A.dtype, out.dtype, precision
        self._before, self._between, self._after = _arguments(*kinds, (M, K, N), of_A, (B.data.ptr, *of_B), add)

    def __call__(self, A=None, out=None):
        A = self.arrays[0].data.ptr if A is None else A
        out = self.arrays[2].data.ptr if out is None else out
        _multiply(*self._before, A, *self._between, out, *self._after)


class FixedProduct(Product):
    """out[k] = A[k] @ B[k] for every k, at the addresses of the arrays, within `blas.working`."""

    def __init__(self, A, B, out, **options):
        super().__init__(A[0], B[0], out[0], **options)
        self._strides, self._count = [v.strides[0] // v.itemsize for v in (B, A, out)], len(out)

    def __call__(self):
        B, A, out = self._strides
        first_A, _, first_out = (v.data.ptr for v in self.arrays)
        before, between, after = self._before[2:], self._between, self._after
        if self._count == 1:
            blas.gemm(*before, first_A, *between, first_out, *after)
            return
        every = *before, B, first_A, *between[:2], A, between[2], first_out, *after[:2], out, self._count, *after[2:]
        blas.gemms(*every)


def multiply_at(dtype, out_dtype, precision, sizes, A, B, out, *, add=False):
    """`multiply` of addresses: A and B are (address, whether it is read transposed, leading dimension); M, K, N."""
    A, *of_A = A
    before, between, after = _arguments(dtype, out_dtype, precision, sizes, of_A, B, add)
    _multiply(*before, A, *between, out, *after)


def multiply(A, B, out, *, add=False, precision="ieee"):
    """A `Product` that is called once."""
    Product(A, B, out, add=add, precision=precision)()


def _arguments(dtype, out_dtype, precision, sizes, A, B, add):
    """What `_multiply` takes before the address of A, between it and that of out, and after."""
    (M, K, N), (turn_A, leading_A), (B, turn_B, leading_B) = sizes, A, B
    cublas, kind, out_kind, zero, one, compute = _settled(dtype, out_dtype, precision)
    handle = _handle()
    before = cublas, handle, turn_B, turn_A, N, M, K, one, B, kind, leading_B
    between = kind, leading_A, one if add else zero
    return before, between, (out_kind, N, _allowed(compute, handle, cublas), cublas.CUBLAS_GEMM_DEFAULT)


def _multiply(cublas, *arguments):
    """gemmEx, to the current stream, which may be captured: what CuPy refuses."""
    if is_captured():
        blas.captured_gemm(*arguments)
    else:
        cublas.gemmEx(*arguments)


@cache
def _settled(dtype, out_dtype, precision):
    """cuBLAS, what it calls the dtypes of A and out, the addresses of 0 and 1, and the compute type.

    IEEE products, unless TF32 was asked for. Products of half types are exact, and summed in float32, in any case. None
    where it depends on the handle: one of which someone asked for faster products overall would give them for
    COMPUTE_32F, too, though not for PEDANTIC.
    """
    from cupy.cuda import runtime
    from cupy_backends.cuda.libs import cublas

    zero, one = (scalar.ctypes.data for scalar in SCALARS["float64" if out_dtype.name == "float64" else "float32"])
    kinds = (getattr(runtime, DATA_TYPES[v.name]) for v in (dtype, out_dtype))
    if out_dtype.name == "float64":
        compute = cublas.CUBLAS_COMPUTE_64F
    elif dtype.name != "float32":
        compute = cublas.CUBLAS_COMPUTE_32F
    else:
        compute = cublas.CUBLAS_COMPUTE_32F_FAST_TF32 if precision == "tf32" else None
    return cublas, *kinds, zero, one, compute


def _allowed(compute, handle, cublas):
    """The compute type, where `_settled` leaves it to the handle."""
    if compute is not None:
        return compute
    plain = cublas.getMathMode(handle) == cublas.CUBLAS_DEFAULT_MATH
    return cublas.CUBLAS_COMPUTE_32F if plain else cublas.CUBLAS_COMPUTE_32F_PEDANTIC


def _handle():
    """CuPy's, of this thread and the current device."""
    with capturing:  # a thread's first one is made
        return _handle_of_cublas()()


@cache
def _handle_of_cublas():
    from cupy.cuda import device

    return device.get_cublas_handle


def layout(v):
    """A matrix (copied, where cuBLAS cannot read its strides), whether it is read transposed, its leading dimension."""
    (rows, columns), (down, across), size = v.shape, v.strides, v.itemsize
    # The stride along a side of 1 is any number.
    if (across == size or columns == 1) and (down >= columns * size or rows == 1):
        return v, 0, down // size if rows > 1 else columns
    if (down == size or rows == 1) and (across >= rows * size or columns == 1):
        return v, 1, across // size
    return v.copy(order="C"), 0, columns
