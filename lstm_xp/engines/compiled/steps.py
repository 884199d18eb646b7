"""One step of a stream, as numba compiles it; with large weights, by two threads.

To wake a thread takes longer than most steps. So a helper that was woken once looks out for more work while the steps
follow each other, in compiled code (`attend`), and is handed pieces of it over a `desk`: some rows of the weights each,
for memory is read fastest row by row. The stream's own thread takes them from the first on, a helper from the last on,
each by counting `TAKEN` up to zero, and nobody waits for a helper but while that is at work on a piece.

Every other step takes rows in the opposite order: what a thread read last is still in its cache. The products of some
rows at a time are therefore kept apart, and added up in one order in the end: no sum depends on who formed it, or when.
"""

import numpy as np

from .cells import ABREAST, BOUND, cell, outputs
from .denormals import flush_denormals, restore
from .meeting import PATIENCE, add, begin, give_way, look, put, sleep
from .products import FEW_ROWS, STREAMS, inlined, multiply_rows, share, to_and_fro, whole
from .vectors import BYTES, address, at, data, hold, lanes, load, short_of_line, store

# At most so many rows of the weights are summed over at a time.
DEEP = 64
# Flop from which on a helper is worth it, for a row or two. There are a few pieces then, and one more for so many flop:
# that is as long as one thread waits for another.
WORTH_A_HELPER, FEWEST_PIECES, FLOP_OF_A_PIECE = 4e6, 4, 1e7

# What is on a desk, which all streams of a dtype share: counters in lines of memory of their own; then numbers of which
# nothing depends but how fast it goes, if several threads write them; then what only the owner of the desk writes.
STREAM, TAKEN, GIVEN, DONE, AWAKE, STEPS, ALONE, RESTS, SHARED, MET, WORK = 0, 16, 32, 48, 64, 80, 81, 82, 96, 97, 98
# Of the steps without a helper, every so many asks for one: to wake it is not free, and in vain if steps are far apart.
ASKS = 8
# Looks of a helper before it goes to sleep, some 500 us.
LOOKS = 2000
# A helper whose processor has something else to do rests for so many flop of large steps, that what is lost stays a
# few percent: whenever it is awake and takes nothing, and for each nap of the thread that waits for it. That one is
# patient for as long as it takes to read a piece: one look more for so many bytes.
REST, BYTES_A_LOOK = 400_000_000, 2048
# After so many flop a helper has to be asked for again, lest it outlive what the user allows.
SERVES = 1e11


def new_desk():
    """A desk on which there is no work."""
    return np.zeros(WORK + 18, np.int64)


@inlined
def flop_of(N, D, H):
    """A few rows take as long as eight: the time is that of reading the weights."""
    return 8 * max(N, 8) * H * (D + H)


@inlined
def sums_of(N, D, H):
    """Into how many pieces a step is divided, and how many sums each has."""
    if N > FEW_ROWS:
        return 1, 1
    flop, pieces = flop_of(N, D, H), 1
    if flop >= WORTH_A_HELPER:
        pieces = min(FEWEST_PIECES + int(flop / FLOP_OF_A_PIECE), whole(D + H, DEEP))
    return pieces, whole(whole(D + H, pieces), DEEP)


@inlined
def piece_at(place, pieces, met, turn):
    """The pieces in order; at every other turn, away from where two threads met: those before it backwards, then the
    others backwards, of which a helper, who begins at the end, takes those first that it took last."""
    if turn % 2 == 0:
        return place
    return met - 1 - place if place < met else met + pieces - 1 - place


@inlined
def preactivations(x, x_n, x_k, D, h, h_0, h_n, h_k, H, Wx, Wh, z, start, N, turn, piece, pieces, sums,
                   first, last):  # fmt: skip
    """One piece of x @ Wx + h @ Wh, in columns first..last.

    z has N rows for each of the sums of each of the pieces, from `start` on; the first of a piece receives their sum.
    """
    columns, wide, apart = 4 * H, lanes(z), N * 4 * H
    place = start + piece * sums * apart
    for s in range(sums):
        s = to_and_fro(s, 0, sums, 1, turn)
        top, bottom = share(D + H, STREAMS, piece * sums + s, pieces * sums)
        y, of_x = place + s * apart, max(0, min(bottom, D) - top)
        multiply_rows(x, top * x_k, x_n, x_k, Wx, top * columns, of_x, False, z, y, N, columns, first, last)
        top = max(0, top - D)
        multiply_rows(h, h_0 + top * h_k, h_n, h_k, Wh, top * columns, bottom - D - top, of_x > 0,
                      z, y, N, columns, first, last)  # fmt: skip
    for n in range(N if sums > 1 else 0):
        for y in range(place + n * columns + first, place + n * columns + last, wide):
            total = load(z, y, wide)
            for s in range(1, sums):
                total = total + load(z, y + s * apart, wide)
            store(z, y, total, wide)


@inlined
def add_pieces(z, start, pieces, sums, b, N, H, first, last):
    """b and the sums of all pieces, in place of that of the first."""
    columns, wide = 4 * H, lanes(z)
    for n in range(N):
        for j in range(first, last, wide):
            y, total = start + n * columns + j, load(b, j, wide)
            for piece in range(pieces):
                total = total + load(z, y + piece * sums * N * columns, wide)
            store(z, y, total, wide)


@inlined
def room_for(N, H, sums, like):
    """Memory for so many sums, and where in it they begin: at a line of the cache."""
    room = np.empty(sums * N * 4 * H + 2 * BYTES // like.itemsize, like.dtype)
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
            outputs(z, a + 2 * H + j, wide, next_c, y + j, wide, next_h, y + j, wide,
                    min(ABREAST, whole(j1 - j, wide)), j1 - j, wide, one, bound)  # fmt: skip


def step(x, h, c, Wx, Wh, b, next_h, next_c, meeting, part, parts):
    """One step, from weights as they are; h, c, next_h and next_c are (1, N, H). Threads divide the units."""
    begin(meeting, part)
    (N, D), H, size = x.shape, h.shape[2], x.itemsize
    pieces, sums = sums_of(N, D, H)
    room, start = room_for(N, H, pieces * sums, x)
    mode = flush_denormals()  # nothing fails from here on
    z = data(room)
    j0, j1 = share(H, BYTES // size, part, parts)
    for gate in range(4):
        first, last = gate * H + j0, gate * H + j1
        for piece in range(pieces):
            preactivations(data(x), x.strides[0] // size, x.strides[1] // size, D,
                           data(h), 0, h.strides[1] // size, h.strides[2] // size, H,
                           data(Wx), data(Wh), z, start, N, 0, piece, pieces, sums, first, last)  # fmt: skip
        add_pieces(z, start, pieces, sums, data(b), N, H, first, last)
    new_states(z, start, N, H, data(c), 0, c.strides[1] // size, data(next_h), data(next_c), 0,
               j0, j1, x.dtype.type(1), x.dtype.type(BOUND))  # fmt: skip
    hold(room)
    restore(mode)


def stream(desk, limit, called, x, h, c, Wx, Wh, b, next_h, next_c, layer):
    """One step of one of several layers: h, c, next_h and next_c are (layers, N, H), x (N, D) and h of any strides.

    1 if it is done, and 2 more, if a helper should be woken. Else nothing is done: 0 where shapes or layouts do not
    suit, or these are more rows and more flop than one thread should do; 2 where a helper should be `called` before.
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
        and Wh.strides == (columns * size, size)
        and Wx.strides == (columns * size if D > 1 else Wx.strides[0], size)
        and c.strides[2] == b.strides[0] == size
        # A field of records may lie between whole numbers.
        and x.strides[0] % size == x.strides[1] % size == c.strides[0] % size == c.strides[1] % size == 0
        and h.strides[0] % size == h.strides[1] % size == h.strides[2] % size == 0
    )
    if not suits:
        return 0
    flop, awake, shared, asks = flop_of(N, D, H), False, False, 0
    if N > FEW_ROWS:
        if flop >= limit:
            return 0
    elif flop >= WORTH_A_HELPER:
        if desk[RESTS] > 0:
            desk[RESTS] -= flop
        else:
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
    pieces, sums = sums_of(N, D, H)
    room, start = room_for(N, H, pieces * sums, x)
    mode = flush_denormals()  # nothing fails from here on
    z, own, met = data(room), 0, pieces
    shared = shared and add(desk, STREAM) == 0
    if shared:
        met = min(desk[MET], pieces)
        work = (address(data(x)), x_n, x_k, D, address(data(h)), h_0, h_n, h_k, H, address(data(Wx)),
                address(data(Wh)), address(z), start, N, turn, pieces, sums, met)  # fmt: skip
        for place, value in enumerate(work):
            desk[WORK + place] = value
        desk[SHARED] += 1
        put(desk, DONE, 0)
        put(desk, GIVEN, 0)
        put(desk, TAKEN, -pieces)
    while add(desk, TAKEN) < 0 if shared else own < pieces:
        preactivations(data(x), x_n, x_k, D, data(h), h_0, h_n, h_k, H, data(Wx), data(Wh), z, start, N,
                       turn, piece_at(own, pieces, met, turn), pieces, sums, 0, columns)  # fmt: skip
        own += 1
    if shared:
        desk[MET] = own
        if awake and own == pieces:
            desk[RESTS] += REST
        looks, patience = 0, PATIENCE + (D + H) * columns * size // (pieces * BYTES_A_LOOK)
        while look(desk, DONE) < pieces - own:
            looks += 1
            give_way()
            if looks > patience:
                sleep()
                desk[RESTS] += REST
        put(desk, STREAM, 0)
    add_pieces(z, start, pieces, sums, data(b), N, H, 0, columns)
    new_states(z, start, N, H, data(c), layer * c_l, c_n, data(next_h), data(next_c), layer * N * H,
               0, H, x.dtype.type(1), x.dtype.type(BOUND))  # fmt: skip
    hold(room)
    restore(mode)
    return 1 + asks


def attend(desk, like):
    """What a helper does while it is awake: pieces of steps, of arrays of the dtype of `like`.

    A step does not end while a piece that was taken is not done: so what is on the desk is read after that.
    """
    mode = flush_denormals()
    put(desk, AWAKE, 1)
    p, w = data(like), WORK
    looks, served = 0, 0
    while looks < LOOKS and served < SERVES:
        looks += 1
        if look(desk, TAKEN) < 0 and add(desk, TAKEN) < 0:
            N, D, H = desk[w + 13], desk[w + 3], desk[w + 8]
            turn, pieces, sums, met = desk[w + 14], desk[w + 15], desk[w + 16], desk[w + 17]
            piece = piece_at(pieces - 1 - add(desk, GIVEN), pieces, met, turn)
            preactivations(at(desk[w], p), desk[w + 1], desk[w + 2], D,
                           at(desk[w + 4], p), desk[w + 5], desk[w + 6], desk[w + 7], H,
                           at(desk[w + 9], p), at(desk[w + 10], p), at(desk[w + 11], p), desk[w + 12], N,
                           turn, piece, pieces, sums, 0, 4 * H)  # fmt: skip
            add(desk, DONE)
            looks, served = 0, served + flop_of(N, D, H) // pieces
        else:
            give_way()
    put(desk, AWAKE, 0)
    restore(mode)
