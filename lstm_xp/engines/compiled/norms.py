"""Layer normalisation of vectors, and its gradient, as numba compiles them.

Sums are divided by how many there are (`count`): times 1 / count, a mean would be off by a rounding more, which
normalisation makes large.
"""

from math import sqrt

from .products import inlined
from .vectors import lanes, load, store


@inlined
def sum_of(v, start, size, room, spare):
    """The sum of so many numbers. `spare` is room for one vector."""
    wide = lanes(v)
    total = load(v, start, min(wide, size))
    for j in range(wide, size, wide):
        total = total + load(v, start + j, min(wide, size - j))
    store(room, spare, total, wide)
    found = room[spare]
    for lane in range(1, wide):
        found += room[spare + lane]
    return found


@inlined
def sum_of_products(v, start, w, place, size, room, spare):
    """The sum of so many numbers of v times those of w."""
    wide = lanes(v)
    total = load(v, start, min(wide, size)) * load(w, place, min(wide, size))
    for j in range(wide, size, wide):
        total = total + load(v, start + j, min(wide, size - j)) * load(w, place + j, min(wide, size - j))
    store(room, spare, total, wide)
    found = room[spare]
    for lane in range(1, wide):
        found += room[spare + lane]
    return found


@inlined
def normalise(v, start, size, count, room, spare, one, epsilon):
    """So many numbers, in place, to mean 0 and variance 1, but for epsilon."""
    wide = lanes(v)
    mean = sum_of(v, start, size, room, spare) / count
    for j in range(0, size, wide):
        left = min(wide, size - j)
        store(v, start + j, load(v, start + j, left) - mean, left)
    scale = one / sqrt(sum_of_products(v, start, v, start, size, room, spare) / count + epsilon)
    for j in range(0, size, wide):
        left = min(wide, size - j)
        store(v, start + j, load(v, start + j, left) * scale, left)


@inlined
def through_norm(dhat, start, gain, hat, place, size, count, scale, out, to, room, spare):
    """out = the gradient of what was normalised to `hat`, from that of hat * gain; dhat itself may be out."""
    wide = lanes(out)
    for j in range(0, size, wide):
        left = min(wide, size - j)
        store(out, to + j, load(dhat, start + j, left) * load(gain, j, left), left)
    mean = sum_of(out, to, size, room, spare) / count
    along = sum_of_products(out, to, hat, place, size, room, spare) / count
    for j in range(0, size, wide):
        left = min(wide, size - j)
        store(out, to + j, (load(out, to + j, left) - mean - load(hat, place + j, left) * along) * scale, left)
