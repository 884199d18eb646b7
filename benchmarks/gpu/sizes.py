"""What is run on a GPU: awkward shapes for correctness, a grid for times and its classes, and kinds of numbers."""

from itertools import zip_longest
from typing import NamedTuple


class Kind(NamedTuple):
    """Numbers to compute with: dtype, `precision` of `lstm_forward`, and the dtype whose tolerance results have."""

    dtype: str
    precision: str
    rounding: str


KINDS = {
    "float32": Kind("float32", "ieee", "float32"),
    "tf32": Kind("float32", "tf32", "float16"),  # TF32 keeps as many digits of a factor as float16 does
    "bfloat16": Kind("bfloat16", "ieee", "bfloat16"),
    "float16": Kind("float16", "ieee", "float16"),
    "float64": Kind("float64", "ieee", "float64"),
}
# Those that are timed at all shapes.
TIMED_KINDS = ("tf32", "float32", "bfloat16", "float16")

# N, T, D, H: every T with every N and every H. T = 1 has no recurrence, T = 2 no middle; D is odd, 1, or beyond a tile.
_N, _T, _D, _H = (1, 3, 7, 33, 256), (1, 2, 33), (65, 1, 130, 5, 64), (64, 100, 129, 192, 512, 1000, 2048)
AWKWARD = tuple(
    (N, _T[(n + h) % len(_T)], _D[(2 * n + h) % len(_D)], H)
    for h, H in enumerate(_H)
    for n, N in enumerate(_N)
    if (n + 2 * h) % 4 != 1
)

# Class -> shapes (N, T, D, H): cuDNN changes its algorithm at H = 192 and 1024, and for some at N = 128 and N % 8.
CLASSES = {
    "H <= 64": (
        (1, 1000, 64, 64), (64, 256, 64, 64), (8, 256, 32, 32), (256, 128, 64, 64), (1024, 64, 64, 64),
    ),
    "64 < H <= 192": (
        (16, 256, 128, 128), (1, 1000, 128, 128), (64, 256, 128, 128), (64, 128, 192, 192), (256, 64, 128, 128),
        (45, 128, 152, 152), (8, 256, 192, 192),
    ),
    "192 < H <= 512, N <= 64": (
        (64, 128, 512, 512), (1, 256, 256, 256), (16, 256, 256, 256), (32, 128, 128, 256), (64, 128, 256, 512),
        (1, 256, 512, 512), (8, 256, 512, 512), (32, 128, 512, 512), (30, 128, 384, 384), (64, 128, 256, 256),
    ),
    "512 < H <= 1024, N <= 64": (
        (16, 256, 768, 768), (64, 128, 1024, 1024), (1, 128, 1024, 1024), (16, 128, 1024, 1024), (64, 128, 768, 768),
        (8, 128, 1024, 1024), (32, 128, 1024, 1024), (33, 128, 1000, 1000),
    ),
    "192 < H <= 1024, N > 64": (
        (128, 64, 1024, 1024), (128, 128, 512, 512), (256, 64, 1024, 1024), (256, 64, 256, 256), (256, 64, 512, 512),
        (128, 64, 768, 768),
    ),
    "H > 1024": (
        (32, 64, 2048, 2048), (1, 64, 1536, 1536), (16, 64, 2048, 2048), (128, 64, 2048, 2048), (64, 64, 1536, 1536),
    ),
}  # fmt: skip

# The same in small, to see on a CPU that everything runs.
REHEARSED = {"awkward": ((1, 1, 5, 4), (3, 2, 1, 7), (7, 33, 5, 12)), "timed": ((1, 8, 4, 4), (3, 6, 5, 70))}


def class_of(size):
    """The name of a shape's class; shapes of no table too."""
    N, _, _, H = size
    if H <= 64:
        return "H <= 64"
    if H <= 192:
        return "64 < H <= 192"
    if H > 1024:
        return "H > 1024"
    if N > 64:
        return "192 < H <= 1024, N > 64"
    return "192 < H <= 512, N <= 64" if H <= 512 else "512 < H <= 1024, N <= 64"


def grid():
    """The timed shapes, one of each class in turn: where time runs out, no class is without figures."""
    return tuple(size for turn in zip_longest(*CLASSES.values()) for size in turn if size is not None)


# The reference engine launches some twenty kernels a step: one shape of each class says enough, in one kind.
REFERENCE_TIMED, REFERENCE_KIND = tuple(sizes[0] for sizes in CLASSES.values()), "float32"
