"""The reference engine: any array library, straight from the equations of `cell.py`. It refuses nothing."""

from .. import checks
from ..cell import cell_backward, cell_forward, conversions, split

name = "array_api"


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
    if bias is not None:
        out += bias
    return out


def copy(v):
    return checks.namespace(v).astype(v, v.dtype, copy=True)


def step(x, h, c, Wx, Wh, b):
    xp = checks.namespace(x)
    wide, narrow = conversions(x, xp)
    a = xp.matmul(wide(x), wide(Wx)) + xp.matmul(wide(h), wide(Wh))
    _, h, c = cell_forward(a if b is None else a + wide(b), wide(c), xp)
    return narrow(h), narrow(c)
