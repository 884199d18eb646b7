"""NumPy, when numba is installed: the recurrence compiled, all steps in one call, on several threads.

Without training, rows of different lengths are taken longest first, so that those that have ended are left out.

What is compiled is in `compiled/`. Weights are packed once per call, in the order that the inner loop reads them, for
all steps. Threads divide the rows, or the units where rows are few or weights large. The products of the other stages
run in the same way, so that no second pool of threads takes part.
"""

from collections import deque
from functools import cache, partial
from importlib.util import find_spec

import numpy as np

from ..freezing import memory_of
from ..variant_cells import EPSILON, Between, States
from . import numpy_fused

name = "numpy_numba"

DTYPES = ("float32", "float64")

# Flop of the larger of two products for which one thread more is worth it: to wake it takes about 50 us. Half as many
# of one row, whose flop wait for memory; twice as many of other products, and of a single step, which may be the last.
WORTH_A_THREAD = 8e6
# To rearrange a weight takes as long as so many flop.
PACKING = 16
# With fewer rows a thread, threads divide the units. With more rows they do, too, where Wh has more bytes than a core's
# own cache has room for: each thread would fetch all of it at every step. That is so with a row a thread for so many
# bytes, and with so many rows at most.
ROWS, LARGE, BYTES_A_ROW, MORE_ROWS = 4, 1 << 20, 1 << 17, 16
# Flop of one step for which one thread more is worth it that it meets after each: where one thread would have all rows
# otherwise, and where rows could be divided.
WORTH_A_MEETING = 1e5, 4e5
# Workspaces that are kept for later calls: how many of a dtype, of at most so many bytes each.
SPARE, KEPT = 2, 1 << 26
# Lengths where every row has all steps, and the order of rows that come as they are.
FULL = AS_THEY_ARE = np.empty(0, np.int64)
# Bytes of a line of the cache, and of the largest register.
LINE = 64


def refuses(problem):
    if problem.array_library != "numpy":
        return f"it needs NumPy arrays, these are {problem.array_library}'s"
    if problem.dtype not in DTYPES:
        return f"it computes {' and '.join(DTYPES)}, not {problem.dtype}"
    return obstacle()


def declines(problem):
    return ""


def layer(x, h0, c0, Wx, Wh, b, lengths, h, *, keep):
    """Stages one and two: pre-activations are made where and when the recurrence wants them."""
    T, N, H = h.shape
    x = _plain(x)
    gates = np.empty((T if keep else 0, N, 4, H), x.dtype)
    b = np.zeros(4 * H, x.dtype) if b is None else np.ascontiguousarray(b, x.dtype)
    frozen = memory_of(Wx) is not None and memory_of(Wh) is not None
    lengths = FULL if lengths is None or lengths.min() >= T else np.ascontiguousarray(lengths, np.int64)
    if keep or not lengths.size:
        c_n, c, gates = _forward(x, AS_THEY_ARE, Wx, b, lengths, gates, h0, h, c0, Wh, keep, frozen)
        if lengths.size:  # not what was carried on from there: a NaN in h reaches every gate
            c_n = np.where(lengths[:, None] > 0, c[np.minimum(lengths, T) - 1, np.arange(N)], c0)
        return c_n, c, gates
    # In memory of its own: it lies in another order.
    order = _longest_first(lengths, _divide(_code(x.dtype), T, N, x.shape[2], H, 0 if frozen else PACKING))
    found, c_n = np.empty((T, N, H), x.dtype), np.empty((N, H), x.dtype)
    c_n[order], _, _ = _forward(
        x, order, Wx, b, lengths[order], gates, h0[order], found, c0[order], Wh, keep, frozen
    )  # fmt: skip
    h[:, order] = found
    return c_n, None, None


def forward(a, h0, c0, Wh, *, keep):
    T, N, H = *a.shape[:2], Wh.shape[0]
    gates, h = np.ascontiguousarray(a).reshape(T, N, 4, H), np.empty((T, N, H), a.dtype)
    return h, *_forward(a[..., :0], AS_THEY_ARE, _plain(Wh)[:0], gates[0, 0, 0], FULL, gates, h0, h, c0, Wh, keep)


def _forward(x, order, Wx, b, lengths, gates, h0, h, c0, Wh, keep, frozen=False):
    T, N, D, H = *x.shape, Wh.shape[0]
    code = _code(x.dtype)
    h0 = _plain(np.ascontiguousarray(h0, code.dtype))
    c = np.empty((T + 1 if keep else 1, N, H), code.dtype)
    c[0] = c0
    across, parts = _divide(code, T, N, D, H, 0 if frozen else PACKING)
    some, few, size = code.forward_space(T, N, D, H, frozen, across, parts, code.dtype.itemsize)
    packed = (_prepared(code, Wh, few), _prepared(code, Wx, False)) if frozen else (code.none, code.none)
    forward = (x, order, _plain(Wx), b, lengths, gates, h0, h, c, _plain(Wh), keep, some, few, *packed)
    _run(code, code.forward, forward, size, parts, across)
    return c[-1].copy(), *((c[1:], gates.reshape(T, N, 4 * H)) if keep else (None, None))


def backward(dh, dh_n, dc_n, gates, c, c0, Wh):
    T, N, H = c.shape
    da, dx, dW = (np.empty(shape, c.dtype) for shape in ((T, N, 4, H), (0, 0, 0), (0, 0)))
    dh0, dc0 = _backward(dh, dh_n, dc_n, gates, c, c0, Wh, da, c[..., :0], c0, c, Wh[:0], dx, dW)
    return da.reshape(T, N, 4 * H), dh0, dc0


def gradients(dh, dh_n, dc_n, gates, c, x, h0, c0, h, Wx, Wh, *, need_dx):
    """Stages two and three: da is used up while it is in the cache."""
    T, N, D, H = *x.shape, Wh.shape[0]
    shapes = (0, 0, 0, 0), (T, N, D) if need_dx else (0, 0, 0), (D + H + 1, 4 * H)
    da, dx, dW = (np.empty(shape, c.dtype) for shape in shapes)
    dh0, dc0 = _backward(dh, dh_n, dc_n, gates, c, c0, Wh, da, x, h0, h, Wx, dx, dW)
    return dx if need_dx else None, dh0, dW[:D], dW[D:-1], dW[-1], dc0


def _backward(dh, dh_n, dc_n, gates, c, c0, Wh, da, x, h0, h, Wx, dx, dW):
    T, N, D, H = *x.shape, Wh.shape[0]
    code = _code(c.dtype)
    dh = np.broadcast_to(np.zeros(H, c.dtype), c.shape) if dh is None else dh
    carry, dc = (np.zeros((N, H), c.dtype) if v is None else np.array(v, c.dtype, order="C") for v in (dh_n, dc_n))
    gates, c, c0, h0 = (_plain(np.ascontiguousarray(v, code.dtype)) for v in (gates, c, c0, h0))
    across, active = _divide(code, T, N, D, H)
    parts = active if across else max(active, _parts(code, 4 * T * N * dW.size))
    some, size = code.backward_space(T, N, D, H, da.size > 0, parts, code.dtype.itemsize)
    backward = (_with_rows(dh), carry, dc, gates.reshape(T, N, 4, H), c, c0, _plain(Wh).T, da,
                _plain(x), h0, _with_rows(h), _plain(Wx).T, dx, dW, some)  # fmt: skip
    _run(code, code.backward, backward, size, parts, active, across)
    return carry, dc


def product(A, B, bias=None):
    M, K, N = *A.shape, B.shape[1]
    code = _code(np.result_type(A, B))
    A, B = (_plain(v.astype(code.dtype, copy=False)) for v in (A, B))
    bias = np.zeros(N, code.dtype) if bias is None else np.ascontiguousarray(bias, code.dtype)
    out, parts = np.empty((M, N), code.dtype), _parts(code, 2 * M * K * N)
    size = code.matmul_space(N, parts, code.dtype.itemsize)
    _run(code, code.matmul, (A, B, bias, out), size, parts)
    return out


def lacks(cell):
    from .compiled.activations import NAMES

    missing = [kind.name for kind in cell.activations if kind.name not in NAMES]
    return f"it has no {missing[0]}" if missing else ""


def cells(a, h0, c0, p, cell, masks, lengths, *, keep):
    (T, N, K), R, dtype = a.shape, h0.shape[1], a.dtype
    H, code, options = K // 4, _code(dtype), _cell(p, cell, masks, lengths, dtype)

    def kept(size, wanted=True):
        return np.empty((T, N, size) if keep and wanted else (0, 0, 0), dtype)

    h, c = np.empty((T, N, R), dtype), np.empty((T if keep else 1, N, H), dtype)
    new, z = kept(H, masks.zoneout_c is not None), kept(K, _reads_z(cell))
    h0, c0 = _plain(np.ascontiguousarray(h0)), _plain(np.ascontiguousarray(c0))
    across, parts = _divide(code, T, N, R, H) if p.gain_h is None else (False, _apart(code, T, N, R, H))
    size = code.cell_forward_space(N, H, R, p.Wp is not None, p.gain_h is not None, across, parts, dtype.itemsize)
    arguments = a, h0, _plain(p.Wh), *options, c0, h, c, new, z, keep
    _run(code, code.cell_forward, arguments, size, parts, across)
    states = States(c, new if new.size else c, z if z.size else None, a) if keep else None
    return h, c[-1], states


def cells_gradients(dh, dh_n, dc_n, c0, states, norms, p, cell, masks, lengths):
    (T, N, K), R, dtype = states.gates.shape, dh_n.shape[1], c0.dtype
    H, code, options = K // 4, _code(dtype), _cell(p, cell, masks, lengths, dtype)
    projects, normalises = p.Wp is not None, p.gain_h is not None

    def given(v):
        return np.empty((0, 0, 0), dtype) if v is None else _plain(np.ascontiguousarray(v))

    def between(size, wanted=True):
        return np.empty((T, N, size) if wanted else (0, 0, 0), dtype)

    dh = np.broadcast_to(np.zeros(R, dtype), (T, N, R)) if dh is None else _with_rows(dh)
    carry_h, carry_c = (np.array(v, dtype, order="C") for v in (dh_n, dc_n))
    kept = [given(v) for v in (states.gates, states.c, states.cells, states.z)]
    norms = [given(v) for v in norms]
    da, dr, dout = between(K), between(K, normalises), between(R, projects)
    dseen, m = between(H, normalises), between(H, projects)
    parts = _apart(code, T, N, R, H)
    size = code.cell_backward_space(N, H, R, projects, parts, dtype.itemsize)
    arguments = (dh, carry_h, carry_c, *kept, *norms, _plain(p.Wh), *options, given(c0), da, dr, dout, dseen, m)
    _run(code, code.cell_backward, arguments, size, parts)
    return carry_h, carry_c, Between(da, dr if normalises else da, dout, dseen, m)


def _reads_z(cell):
    """Whether slopes are not known from the gates alone."""
    return cell.clip is not None or any(kind.name not in ("Sigmoid", "Tanh") for kind in cell.activations[:2])


def _apart(code, T, N, R, H):
    """How many threads divide the rows of a cell's recurrence."""
    return min(-(-N // ROWS), _parts(code, 8 * T * N * R * H))


def _cell(p, cell, masks, lengths, dtype):
    """What a cell has beside Wh, as the kernels take it: what is not there has no elements."""
    from .compiled.activations import NAMES

    def given(v, ndim):
        return np.empty((0,) * ndim, dtype) if v is None else _plain(np.ascontiguousarray(v, dtype))

    zoneout_h, zoneout_c = (None if isinstance(mask, float) else mask for mask in masks[1:])
    rates = (mask if isinstance(mask, float) else 0.0 for mask in masks[1:])
    constants = (constant or 0.0 for kind in cell.activations for constant in kind[1:])
    numbers = [*constants, np.inf if cell.clip is None else cell.clip, *rates, EPSILON]
    return (
        given(p.Wp, 2), given(p.peepholes, 2), given(p.gain_h, 1), given(p.gain_c, 1), given(p.bias_c, 1),
        given(masks.recurrent, 2), given(zoneout_h, 3), given(zoneout_c, 3),
        np.array([NAMES.index(kind.name) for kind in cell.activations]), np.array(numbers, dtype), cell.coupled,
        FULL if lengths is None else np.ascontiguousarray(lengths, np.int64),
    )  # fmt: skip


def step(x, h, c, Wx, Wh, b):
    (N, H), arrays = h.shape, (x, h, c, Wx, Wh, *(() if b is None else (b,)))
    take = stream(x.dtype)
    if take and all(v.dtype is x.dtype and v.flags.aligned for v in arrays):
        code = _code(x.dtype)
        b = np.zeros(4 * H, x.dtype) if b is None else b
        next_h, next_c = np.empty((1, N, H), x.dtype), np.empty((1, N, H), x.dtype)
        arguments = x, h[None], c[None], Wx, Wh, b, next_h, next_c
        if take(*arguments, 0):
            return next_h[0], next_c[0]
        if N > 1 and H % code.lanes == 0 and all(v.flags.c_contiguous for v in arrays):
            parts, run = min(code.threads(), H // code.lanes), code.step
            code.team().pool.run(lambda *share: run(*arguments, *share), parts)
            return next_h[0], next_c[0]
    return numpy_fused.step(x, h, c, Wx, Wh, b)


@cache
def stream(dtype):
    if dtype.name not in DTYPES:
        return None
    code = _code(dtype)
    run, _ = partial(code.stream, code.desk), code.attend  # which a helper shall not compile

    def take(x, h, c, Wx, Wh, b, next_h, next_c, layer):
        arguments = x, h, c, Wx, Wh, b, next_h, next_c, layer
        limit = int(2 * WORTH_A_THREAD)
        done = run(limit, False, *arguments)
        if done >= 2:
            code.helper.wake()
        if done == 2:
            done = run(limit, True, *arguments)
        return done % 2 == 1

    return take


def both(problem, first, second):
    """At the same time, where that is no slower: half of the threads meet less often, and with fewer others.

    It is slower where there is too little work for a second thread, where threads are left over, and where Wh fits into
    the caches of all of them alone.
    """
    N, T, D, H = problem.N, problem.T, problem.D, problem.H
    if _flop(T, N, D, H) < WORTH_A_THREAD:
        return [first(), second()]
    code = _code(np.dtype(problem.dtype))
    threads, (across, parts) = code.threads(), _divide(code, T, N, D, H)
    left_over = threads % 2 and parts > threads // 2
    if left_over or (across and _bytes(code, H) > LARGE):
        return [first(), second()]
    return code.both(first, second)


copy = np.ndarray.copy


def warmup(dtype):
    """Compile for a dtype, or load what was compiled before."""
    from .compiled import kernels

    code = _code(np.dtype(dtype))
    for function in kernels.signatures(code.dtype):
        getattr(code, function.__name__)


def _plain(v):
    """v itself, or a copy that is aligned."""
    return v if v.flags.aligned else v.copy()


def _with_rows(v):
    """v itself, or a copy that is aligned and has contiguous rows."""
    return v if v.flags.aligned and v.strides[2] == v.itemsize else v.copy()


def _longest_first(lengths, divided):
    """An order of the rows in which those of each thread come by falling length, and all threads have alike."""
    (across, parts), N = divided, len(lengths)
    starts = N * np.arange(1 if across else parts) // parts
    place = np.arange(N) - np.repeat(starts, np.diff([*starts, N]))  # among the rows of a thread
    order = np.empty(N, np.int64)
    order[np.argsort(place, kind="stable")] = np.argsort(-lengths, kind="stable")
    return order


def _parts(code, flop):
    """How many threads products of so many flop are worth."""
    worth = int(flop / (2 * WORTH_A_THREAD))
    return min(code.threads(), worth) if worth > 1 else 1


def _flop(T, N, D, H, packing=PACKING):
    """Flop of the larger of two products of a recurrence, and what it takes to pack the weights."""
    return 8 * H * max(D, H) * (T * max(N, 2) + packing // 2)


def _bytes(code, H):
    """How large Wh is."""
    return 4 * H * H * code.dtype.itemsize


def _divide(code, T, N, D, H, packing=PACKING):
    """Whether threads divide the units of a recurrence, and how many are worth it."""
    flop = _flop(T, N, D, H, packing)
    meeting = int(8 * N * H * H / WORTH_A_MEETING[N > ROWS])
    if flop < WORTH_A_THREAD or (N <= ROWS and meeting == 0):
        return False, 1
    threads = min(code.threads(), 1 + int(flop / WORTH_A_THREAD))
    weights = _bytes(code, H)
    most = min(MORE_ROWS, weights // BYTES_A_ROW) if weights > LARGE else 0
    apart, together = min(threads, -(-N // ROWS)), min(threads, 1 + meeting, H // code.lanes)
    few = N < ROWS * threads and together >= apart
    return (True, together) if together > 1 and (few or N <= most * threads) else (False, apart)


def _run(code, kernel, arguments, size, parts, *options):
    """kernel(*arguments, space, *options, meeting, part, parts) for every part.

    The space, so many numbers, is that of an earlier call: it would be new memory each time, which the system clears,
    page by page. A call that fails keeps it: other threads may still be at work there.
    """
    try:
        space = code.spare.pop()
    except IndexError:
        space = np.empty(0, code.dtype)
    if space.size < size:
        space = _on_a_line(size, code.dtype)
    code.team().pool.run(lambda *share: kernel(*arguments, space, *options, *share), parts)
    if space.nbytes <= KEPT:
        code.spare.append(space)


def _prepared(code, W, few):
    """A frozen weight as the kernel multiplies with it, from an earlier call; it goes with the memory of the weight."""
    prepared, place = memory_of(W).prepared, W.__array_interface__["data"][0]
    key = code.dtype, few, place, W.shape, W.strides
    found = prepared.get(key)
    if found is None:
        K, columns = W.shape
        found = _on_a_line(code.prepared_size(K, columns // 4, code.dtype.itemsize), code.dtype)
        code.prepare(_plain(W), few, found)
        prepared[key] = found
    return found


def _on_a_line(size, dtype):
    """An array that begins at a line of the cache: a vector that lies across two takes twice as long to read."""
    memory = np.empty(size * dtype.itemsize + LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    return memory[start : start + size * dtype.itemsize].view(dtype)


@cache
def obstacle():
    """Why numba cannot be used; "" when it can."""
    if find_spec("numba") is None:
        return "numba is not installed (pip install numba)"
    try:
        from .compiled import kernels  # noqa: F401
    except Exception as error:  # of another time than this NumPy, perhaps
        return f"numba cannot be imported ({' '.join(str(error).split())})"
    return ""


@cache
def _code(dtype):
    """The kernels for a dtype, and what belongs to them."""
    from .compiled import backward, forward, steps, threads, variants, vectors
    from .compiled.code import Code

    code = Code(
        dtype=dtype,
        lanes=vectors.BYTES // dtype.itemsize,
        spare=deque(maxlen=SPARE),
        none=np.empty(0, dtype),
        desk=steps.new_desk(),
        forward_space=forward.forward_space,
        prepared_size=forward.prepared_size,
        backward_space=backward.backward_space,
        cell_forward_space=variants.cell_forward_space,
        cell_backward_space=variants.cell_backward_space,
        matmul_space=variants.matmul_space,
        threads=threads.limit,
        team=threads.team,
        both=threads.both,
    )
    reset = partial(np.copyto, code.desk, code.desk.copy())
    code.helper = threads.Helper(lambda: code.attend(code.desk, code.none), reset)
    return code
