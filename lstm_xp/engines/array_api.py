"""The reference engine: any array library, straight from the equations of `cell.py` and, for the cell variants, of
`variant_cells.py`. It refuses nothing."""

from .. import checks
from ..cell import cell_backward, cell_forward, conversions, split
from ..timeline import Timeline, where
from ..variant_cells import Between, States, at_step, slopes, step_backward
from ..variant_cells import step as variant_step

name = "array_api"

FADES = 32  # steps after which gradients that have become nearly too small are taken out


def refuses(problem):
    return ""


def declines(problem):
    return ""


def forward(a, h0, c0, Wh, *, keep):
    xp = checks.namespace(a)
    weights = xp.astype(Wh, a.dtype, copy=False)
    h, c = h0, c0
    all_h, all_c, all_gates = [], [], []
    for t in range(a.shape[0]):
        recurrent = xp.matmul(xp.astype(h, a.dtype, copy=False), weights)
        gates, h, c = cell_forward(a[t, ...] + recurrent, c, xp)
        h = xp.astype(h, h0.dtype, copy=False)
        all_h.append(h)
        if keep:
            all_c.append(c)
            all_gates.append(xp.concat(gates, axis=-1))
    return xp.stack(all_h), c, *((xp.stack(all_c), xp.stack(all_gates)) if keep else (None, None))


def backward(dh, dh_n, dc_n, gates, c, c0, Wh):
    all_da = []
    for step in backward_steps(dh, dh_n, dc_n, gates, c, c0, Wh):
        da, _, _, dh0, dc0 = step
        all_da.append(da)
    return checks.namespace(gates).stack(all_da[::-1]), dh0, dc0


def backward_steps(dh, dh_n, dc_n, gates, c, c0, Wh):
    """From the last step to the first: da, all that reaches its h and its c, and what goes on to the h and c before."""
    xp = checks.namespace(gates)
    weights = xp.astype(Wh, c.dtype, copy=False)
    dh_t = xp.zeros_like(c0) if dh_n is None else xp.astype(dh_n, c.dtype, copy=False)
    dc_t = xp.zeros_like(c0) if dc_n is None else xp.astype(dc_n, c.dtype, copy=False)
    for t in reversed(range(gates.shape[0])):
        if dh is not None:
            dh_t = dh_t + xp.astype(dh[t, ...], c.dtype, copy=False)
        prev_c = c[t - 1, ...] if t > 0 else c0
        da, dc_t, dprev_c = cell_backward(dh_t, dc_t, split(gates[t, ...]), prev_c, c[t, ...], xp)
        dprev_h = xp.matmul(da, weights.T)
        yield da, dh_t, dc_t, dprev_h, dprev_c
        dh_t, dc_t = dprev_h, dprev_c


def product(A, B, bias=None):
    out = checks.namespace(A).matmul(A, B)
    return out if bias is None else out + bias


def copy(v):
    return checks.namespace(v).astype(v, v.dtype, copy=True)


def step(x, h, c, Wx, Wh, b):
    xp = checks.namespace(x)
    wide, narrow = conversions(x, xp)
    a = xp.matmul(wide(x), wide(Wx)) + xp.matmul(wide(h), wide(Wh))
    _, h, c = cell_forward(a if b is None else a + wide(b), wide(c), xp)
    return narrow(h), narrow(c)


def lacks(cell):
    return ""


def cells(a, h0, c0, p, cell, masks, lengths, *, keep):
    xp, (T, N, _) = checks.namespace(a), a.shape
    wide, narrow = conversions(h0, xp)
    valid = None if lengths is None else Timeline(N, T, lengths, False, xp, checks.device(a)).valid(T)
    h, c, all_h, states = h0, c0, [], []
    for t in range(T):
        next_h, next_c, new, z, gates = variant_step(a[t, ...], wide(h), c, p, cell, at_step(masks, t), xp)
        next_h = narrow(next_h)
        if lengths is not None:
            next_h, next_c = (where(valid[t, ...], v, old, xp) for v, old in ((next_h, h), (next_c, c)))
        h, c = next_h, next_c
        all_h.append(h)
        if keep:
            states.append((c, new, xp.concat(z, axis=-1), xp.concat(gates, axis=-1)))
    if not keep:
        return xp.stack(all_h), c, None
    all_c, all_cells, all_z, all_gates = zip(*states, strict=True)
    all_c = xp.stack(all_c)
    all_cells = all_c if masks.zoneout_c is None else xp.stack(all_cells)
    return xp.stack(all_h), c, States(all_c, all_cells, xp.stack(all_z), xp.stack(all_gates))


def cells_gradients(dh, dh_n, dc_n, c0, states, norms, p, cell, masks, lengths, record=None):
    xp, (T, N, _) = checks.namespace(dh_n), states.gates.shape
    valid = None if lengths is None else Timeline(N, T, lengths, False, xp, checks.device(dh_n)).valid(T)
    rates = slopes(c0, states, norms, p, cell, xp)
    dh_t, dc_t, steps = dh_n, dc_n, []
    for t in reversed(range(T)):
        if dh is not None:
            dh_t = dh_t + dh[t, ...]
        if t % FADES == 0:
            dh_t, dc_t = _without_faded(dh_t, xp), _without_faded(dc_t, xp)
        found = step_backward(dh_t, dc_t, at_step(rates, t), p, at_step(masks, t), xp)
        dprev_h, dprev_c, dnew, between = found
        steps.append(between)
        if record is not None:
            record.append((between[0], dh_t, dnew if masks.zoneout_c is None else dc_t))
        if lengths is not None:
            dprev_h, dprev_c = xp.where(valid[t, ...], dprev_h, dh_t), xp.where(valid[t, ...], dprev_c, dc_t)
        dh_t, dc_t = dprev_h, dprev_c
    between = (xp.stack(kind[::-1]) for kind in zip(*steps, strict=True))
    if lengths is not None:
        between = (where(valid, kind, xp.zeros_like(kind), xp) for kind in between)
    return dh_t, dc_t, Between(*between, rates.m)


def _without_faded(v, xp):
    """Zeros in place of what would soon be denormal: there gradients end that shrink at each step, not at 0.

    Processors take up to a hundred times as long for such numbers.
    """
    limits = xp.finfo(v.dtype)
    least = float(limits.smallest_normal) / float(limits.eps)
    return xp.where(xp.abs(v) < least, xp.zeros_like(v), v)
