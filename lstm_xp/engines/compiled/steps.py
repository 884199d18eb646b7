"""One step of a stream, as numba compiles it; with large weights, by two threads.

To wake a thread takes longer than most steps. So a helper that was woken once looks out for more work while the steps
follow each other, in compiled code (`attend`), and is handed pieces of it over a `desk`. The stream's own thread takes
them from the first on, a helper from the last on, each by counting `TAKEN` up: each finds its part of the weights in
its own cache, and nobody waits for a helper but while that is at work on a piece.
"""

import numpy as np

from .cells import ABREAST, BOUND, cell, outputs
from .meeting import PATIENCE, add, begin, look, pause, put, sleep
from .products import FEW_ROWS, inlined, multiply_rows, share, to_and_fro, whole
from .vectors import BYTES, address, at, data, hold, lanes, load, short_of_line, store

# A step sums over so many rows of its weights, then over the next ones; every other step in the opposite order, for
# what was read last is still in the cache.
DEEP = 64
# Flop from which on a helper is worth it, for a row or two; and from which on a BLAS reads large weights faster.
WORTH_A_HELPER, WORTH_A_BLAS = 4e6, 6e7
# In so many pieces the columns of a step are divided: long ones are read faster.
PIECES = 2

# What is on a desk: counters in lines of memory of their own, then what only the owner of the desk writes.
STREAM, TAKEN, GIVEN, DONE, AWAKE, STEPS, ALONE, RESTS, SHARED, WORK = 0, 16, 32, 48, 64, 80, 81, 82, 83, 96
# Of the steps without a helper, every so many asks for one: to wake it is not free, and in vain if steps are far apart.
ASKS = 8
# Looks of a helper before it goes to sleep, some hundred microseconds.
LOOKS = 20000
# A helper that keeps a step waiting for longer than PATIENCE, for its processor has something else to do, rests for so
# many steps for each nap that the waiting thread takes: what is lost by waiting stays a few percent.
REST = 100
# After so many pieces a helper has to be asked for again, lest it outlive what the user allows.
SERVES = 20000


def new_desk():
    """A desk on which there is no work."""
    desk = np.zeros(WORK + 24, np.int64)
    desk[TAKEN] = PIECES
    return desk


@inlined
def sums_of(N, D, H):
    """How many rows of the weights are summed over at a time, and how many such sums x and h have."""
    deep = DEEP if N <= FEW_ROWS else max(D, H)
    return deep, whole(D, deep), whole(H, deep)


@inlined
def preactivations(x, x_0, x_n, x_k, D, h, h_0, h_n, h_k, H, Wx, Wh, b, z, start, N, turn, first, last):
    """x @ Wx + h @ Wh + b in columns first..last, in z from `start` on.

    With few rows, the products of some rows of the weights at a time are kept apart, and added up in the end: they can
    be read to and fro, turn by turn, and no sum is changed.
    """
    deep, of_x, of_h = sums_of(N, D, H)
    columns, wide, apart = 4 * H, lanes(z), N * 4 * H
    for place in range(of_x + of_h):
        k = to_and_fro(place, 0, of_x + of_h, 1, turn)
        y = start + k * apart
        if k < of_x:
            k = k * deep
            multiply_rows(x, x_0 + k * x_k, x_n, x_k, Wx, k * columns, min(deep, D - k), z, y, N, columns, first, last)
        else:
            k = (k - of_x) * deep
            multiply_rows(h, h_0 + k * h_k, h_n, h_k, Wh, k * columns, min(deep, H - k), z, y, N, columns, first, last)
    for n in range(N):
        for j in range(first, last, wide):
            y, total = start + n * columns + j, load(b, j, wide)
            for k in range(of_x + of_h):
                total = total + load(z, y + k * apart, wide)
            store(z, y, total, wide)


@inlined
def room_for(N, D, H, like):
    """Memory for `preactivations`, and where in it they begin: at a line of the cache."""
    _, of_x, of_h = sums_of(N, D, H)
    room = np.empty((of_x + of_h) * N * 4 * H + 2 * BYTES // like.itemsize, like.dtype)
    return room, short_of_line(data(room))


@inlined
def new_states(z, start, N, H, c, c_0, c_n, next_h, next_c, next, j0, j1, one, bound):
    """The cell, for units j0..j1."""
    wide = lanes(z)
    for n in range(N):
        a, prev, y = start + n * 4 * H, c_0 + n * c_n, next + n * H
        for j in range(j0, j1, wide):
            cell(z, a + j, H, c, prev + j, next_c, y + j, z, 0, 0, False, min(wide, j1 - j), one, bound)
        for j in range(j0, j1, ABREAST * wide):
            outputs(z, a + 2 * H + j, wide, next_c, y + j, next_h, y + j, wide,
                    min(ABREAST, whole(j1 - j, wide)), j1 - j, wide, one, bound)  # fmt: skip


def step(x, h, c, Wx, Wh, b, next_h, next_c, meeting, part, parts):
    """One step, from weights as they are; h, c, next_h and next_c are (1, N, H). Threads divide the units."""
    begin(meeting, part)
    (N, D), H, size = x.shape, h.shape[2], x.itemsize
    room, start = room_for(N, D, H, x)
    z = data(room)
    j0, j1 = share(H, BYTES // size, part, parts)
    for gate in range(4):
        preactivations(data(x), 0, x.strides[0] // size, x.strides[1] // size, D,
                       data(h), 0, h.strides[1] // size, h.strides[2] // size, H,
                       data(Wx), data(Wh), data(b), z, start, N, 0, gate * H + j0, gate * H + j1)  # fmt: skip
    new_states(z, start, N, H, data(c), 0, c.strides[1] // size, data(next_h), data(next_c), 0,
               j0, j1, x.dtype.type(1), x.dtype.type(BOUND))  # fmt: skip
    hold(room)


def stream(desk, limit, called, x, h, c, Wx, Wh, b, next_h, next_c, layer):
    """One step of one of several layers: h, c, next_h and next_c are (layers, N, H), x (N, D) and h of any strides.

    1 if it is done, and 2 more, if a helper should be woken. Else nothing is done: 0 where shapes or layouts do not
    suit, or these are more rows and more flop than one thread should do; 2 where a helper should be `called` before; 4
    where a BLAS should do it.
    """
    (N, D), (layers, rows, H), size = x.shape, next_h.shape, x.itemsize
    columns, wide = 4 * H, BYTES // size
    suits = (
        columns % wide == 0
        and rows == N
        and layer < layers
        and h.shape == c.shape == next_h.shape == next_c.shape
        and Wx.shape == (D, columns)
        and Wh.shape == (H, columns)
        and b.shape == (columns,)
        and Wx.strides == Wh.strides == (columns * size, size)
        and c.strides[2] == b.strides[0] == size
        # A field of records may lie between whole numbers.
        and x.strides[0] % size == x.strides[1] % size == c.strides[0] % size == c.strides[1] % size == 0
        and h.strides[0] % size == h.strides[1] % size == h.strides[2] % size == 0
    )
    if not suits:
        return 0
    # A few rows take as long as eight: the time is that of reading the weights.
    flop, shared, asks = 8 * max(N, 8) * H * (D + H), False, 0
    if N > FEW_ROWS:
        if flop >= limit:
            return 0
    elif flop >= WORTH_A_BLAS:
        return 4
    elif desk[RESTS] > 0:
        desk[RESTS] -= 1
    elif flop >= WORTH_A_HELPER:
        awake = look(desk, AWAKE) == 1
        if flop >= limit and not (awake or called):
            return 2
        if not awake:
            desk[ALONE] += 1
            asks = 2 if desk[ALONE] % ASKS == 0 else 0
        shared = awake or called

    # Where several threads count the steps at once, nothing but the order of reading depends on it.
    desk[STEPS] += layer == 0
    turn = desk[STEPS]
    x_n, x_k, c_l, c_n = x.strides[0] // size, x.strides[1] // size, c.strides[0] // size, c.strides[1] // size
    h_0, h_n, h_k = layer * h.strides[0] // size, h.strides[1] // size, h.strides[2] // size
    room, start = room_for(N, D, H, x)
    z = data(room)
    if shared and add(desk, STREAM) == 0:
        work = (address(data(x)), x_n, x_k, D, address(data(h)), h_0, h_n, h_k, H, address(data(Wx)),
                address(data(Wh)), address(data(b)), address(z), start, N, turn)  # fmt: skip
        for place, value in enumerate(work):
            desk[WORK + place] = value
        desk[SHARED] += 1
        put(desk, DONE, 0)
        put(desk, GIVEN, 0)
        put(desk, TAKEN, 0)
        own = 0
        while add(desk, TAKEN) < PIECES:
            first, last = share(columns, wide, own, PIECES)
            preactivations(data(x), 0, x_n, x_k, D, data(h), h_0, h_n, h_k, H, data(Wx), data(Wh), data(b),
                           z, start, N, turn, first, last)  # fmt: skip
            own += 1
        looks = 0
        while look(desk, DONE) < PIECES - own:
            looks += 1
            pause()
            if looks > PATIENCE:
                sleep()
                desk[RESTS] += REST
        put(desk, STREAM, 0)
    else:
        preactivations(data(x), 0, x_n, x_k, D, data(h), h_0, h_n, h_k, H, data(Wx), data(Wh), data(b),
                       z, start, N, turn, 0, columns)  # fmt: skip
    new_states(z, start, N, H, data(c), layer * c_l, c_n, data(next_h), data(next_c), layer * N * H,
               0, H, x.dtype.type(1), x.dtype.type(BOUND))  # fmt: skip
    hold(room)
    return 1 + asks


def attend(desk, like):
    """What a helper does while it is awake: pieces of steps, of arrays of the dtype of `like`.

    A step does not end while a piece that was taken is not done: so what is on the desk is read after that.
    """
    put(desk, AWAKE, 1)
    p, w = data(like), WORK
    looks, served = 0, 0
    while looks < LOOKS and served < SERVES:
        looks += 1
        if look(desk, TAKEN) < PIECES and add(desk, TAKEN) < PIECES:
            first, last = share(4 * desk[w + 8], lanes(p), PIECES - 1 - add(desk, GIVEN), PIECES)
            preactivations(at(desk[w], p), 0, desk[w + 1], desk[w + 2], desk[w + 3],
                           at(desk[w + 4], p), desk[w + 5], desk[w + 6], desk[w + 7], desk[w + 8],
                           at(desk[w + 9], p), at(desk[w + 10], p), at(desk[w + 11], p),
                           at(desk[w + 12], p), desk[w + 13], desk[w + 14], desk[w + 15], first, last)  # fmt: skip
            add(desk, DONE)
            looks, served = 0, served + 1
        else:
            pause()
    put(desk, AWAKE, 0)
