r"""The general recurrence: the cell variants, in one loop forwards and one backwards, for any array library.

With x' and h' for input and hidden state after their dropout, and each variant's part in brackets:

    z = [LN](x' Wx) + [LN](h' Wh) + b               z = [z_i z_f z_o z_g]; LN(v) = gain * (v - mean) / sqrt(var + eps)
    i = F(z_i + [p_i c_prev])                       F, G, H: activations; sigmoid, tanh, tanh in the plain cell
    f = F(z_f + [p_f c_prev])                       [coupled: f = 1 - i]
    g = G(z_g)
    c = f c_prev + i g
    o = F(z_o + [p_o c])                            the peephole of o sees the new cell state
    h = o H([LN](c) + [bias_c]) [Wp]
    [zoneout]  c = k c_prev + (1 - k) c, and h likewise: k is a mask of zeros and ones, or its expectation

[clip] bounds what enters F and G, not what enters H. Zoneout acts on what the cell computed: h comes from the c before
it. Behind a row's length the states are held by a choice, where(t < length, new, old): no gate needs to saturate.

References:
    projection: H. Sak, A. Senior, F. Beaufays, "Long Short-Term Memory Recurrent Neural Network Architectures for
        Large Scale Acoustic Modeling", Interspeech 2014.
    peepholes: F. Gers, N. Schraudolph, J. Schmidhuber, "Learning Precise Timing with LSTM Recurrent Networks",
        JMLR 3, 2002.
    coupled gates: K. Greff et al., "LSTM: A Search Space Odyssey", IEEE TNNLS 28(10), 2017 (CIFG).
    layer normalisation: J. Ba, J. Kiros, G. Hinton, arXiv:1607.06450, 2016, equations 20 to 22: over all 4*H values.
    zoneout: D. Krueger et al., arXiv:1606.01305, 2016.
    recurrent dropout: Y. Gal, Z. Ghahramani, arXiv:1512.05287, 2015.
    activations, clip: ONNX, operator LSTM, opset 22.
"""

import math
from typing import NamedTuple

from . import checks
from .activations import Activation
from .cell import conversions, split
from .checks import Array
from .parameters import Direction
from .records import SequenceCache
from .timeline import Timeline, rows_of, where

EPSILON = 1e-5  # of layer normalisation
FADES = 32  # steps after which gradients that have become nearly too small are taken out


class Cell(NamedTuple):
    """What a cell computes beside what its parameters say. Zoneout: the rates, which are also the expectations."""

    activations: tuple[Activation, Activation, Activation] = (
        Activation("Sigmoid"),
        Activation("Tanh"),
        Activation("Tanh"),
    )
    coupled: bool = False
    clip: float | None = None
    zoneout_h: float = 0.0
    zoneout_c: float = 0.0


PLAIN = Cell()


class CellMasks(NamedTuple):
    """The masks of one direction: recurrent (N, R), zoneout_h (N, T, R), zoneout_c (N, T, H); None where not drawn."""

    recurrent: Array | None = None
    zoneout_h: Array | None = None
    zoneout_c: Array | None = None


class VariantCache(NamedTuple):
    """What `backward` needs, and the final state. The arguments and h, which is the returned one, are referred to.

    The arrays (N, T, .) from c to gates are in the order of processing: `c` the cell states, held behind the lengths,
    `cells` those before zoneout, `z` the pre-activations after clipping. The properties i, f, o, g (N, T, H) are in the
    caller's order of time.
    """

    x: Array | None
    h0: Array | None
    c0: Array | None
    params: Direction | None
    cell: Cell
    masks: CellMasks
    h: Array | None
    c: Array | None
    cells: Array | None
    z: Array | None
    gates: Array | None
    h_n: Array
    c_n: Array
    lengths: Array | None
    reverse: bool

    i, f, o, g, _gate = SequenceCache.i, SequenceCache.f, SequenceCache.o, SequenceCache.g, SequenceCache._gate

    @property
    def nbytes(self):
        """Bytes held beside the caller's arrays and the returned h."""
        cells = None if self.masks.zoneout_c is None and not self.cell.zoneout_c else self.cells
        held = [v for v in (self.c, cells, self.z, self.gates, self.h_n, self.c_n) if v is not None]
        return sum(math.prod(v.shape) * checks.itemsize(v.dtype) for v in held)


class Slopes(NamedTuple):
    """What a step's gradients are multiplied with, of all steps at once: nothing here depends on later steps.

    `c_to_i` takes the gradient of c to that of z_i, and so on; m = o * out is h before its projection, out = H(seen)
    with the cell state as `seen` by H. hat and scale are those of the normalisations (`_normalised`).
    """

    m_to_seen: Array
    m_to_o: Array
    c_to_i: Array
    c_to_f: Array
    c_to_g: Array
    f: Array
    out: Array
    hat_h: Array | None
    scale_h: Array | None
    hat_c: Array | None
    scale_c: Array | None


def is_plain(params, cell, masks):
    """Whether this is the plain cell, which `lstm_forward` computes faster."""
    extras = (*params[3:], *masks)
    return cell == PLAIN and all(extra is None for extra in extras)


def wide_parameters(params, wide):
    """The parameters in the compute dtype."""
    return Direction(*(None if array is None else wide(array) for array in params))


def input_part(x, p, xp):
    """What x (rows, D) adds to the pre-activations of its step (rows, 4H)."""
    a = xp.matmul(x, p.Wx)
    if p.gain_x is not None:
        a = _normalised(a, xp)[0] * p.gain_x
    return a if p.b is None else a + p.b


def step(a, prev_h, prev_c, p, cell, masks, xp):
    """One time step from the input's part a (N, 4H): h, c, and what backward needs of it. The masks are this step's."""
    F, G, activation_h = cell.activations
    fed = prev_h if masks.recurrent is None else prev_h * masks.recurrent
    recurrent = xp.matmul(fed, p.Wh)
    if p.gain_h is not None:
        recurrent = _normalised(recurrent, xp)[0] * p.gain_h
    z_i, z_f, z_o, z_g = split(a + recurrent)
    if p.peepholes is not None:
        z_i = z_i + p.peepholes[0, :] * prev_c
        z_f = z_f + p.peepholes[1, :] * prev_c
    z_i, z_f, z_g = (_clipped(z, cell.clip, xp) for z in (z_i, z_f, z_g))
    i = F(z_i, xp)
    f = 1 - i if cell.coupled else F(z_f, xp)
    g = G(z_g, xp)
    c = f * prev_c + i * g
    if p.peepholes is not None:
        z_o = z_o + p.peepholes[2, :] * c
    z_o = _clipped(z_o, cell.clip, xp)
    o = F(z_o, xp)
    h = o * activation_h(_seen(c, p, xp), xp)
    if p.Wp is not None:
        h = xp.matmul(h, p.Wp)
    next_h = h if masks.zoneout_h is None else masks.zoneout_h * prev_h + (1 - masks.zoneout_h) * h
    next_c = c if masks.zoneout_c is None else masks.zoneout_c * prev_c + (1 - masks.zoneout_c) * c
    return next_h, next_c, (c, (z_i, z_f, z_o, z_g), (i, f, o, g))


def step_backward(dh, dc, slopes, p, masks, xp):
    """The reverse of `step`: gradients of the states after a step -> of those before it, and of what lies between.

    dnew (N, H) is that of c as the cell computed it, with what reaches it by h; dz (N, 4H) are those of the
    pre-activations, dr of h Wh before its normalisation, dout of h as the cell computed it, dseen of the cell state as
    its output activation sees it.
    """
    dout = dh if masks.zoneout_h is None else (1 - masks.zoneout_h) * dh
    dnew = dc if masks.zoneout_c is None else (1 - masks.zoneout_c) * dc
    dm = dout if p.Wp is None else xp.matmul(dout, p.Wp.T)
    dseen, dz_o = dm * slopes.m_to_seen, dm * slopes.m_to_o
    dnew = dnew + (dseen if p.gain_c is None else _through_norm(dseen * p.gain_c, slopes.hat_c, slopes.scale_c, xp))
    if p.peepholes is not None:
        dnew = dnew + p.peepholes[2, :] * dz_o
    dz_i, dz_f, dz_g = dnew * slopes.c_to_i, dnew * slopes.c_to_f, dnew * slopes.c_to_g
    dz = dr = xp.concat([dz_i, dz_f, dz_o, dz_g], axis=-1)
    if p.gain_h is not None:
        dr = _through_norm(dz * p.gain_h, slopes.hat_h, slopes.scale_h, xp)
    dprev_h, dprev_c = xp.matmul(dr, p.Wh.T), dnew * slopes.f
    if masks.recurrent is not None:
        dprev_h = dprev_h * masks.recurrent
    if p.peepholes is not None:
        dprev_c = dprev_c + p.peepholes[0, :] * dz_i + p.peepholes[1, :] * dz_f
    if masks.zoneout_h is not None:
        dprev_h = dprev_h + masks.zoneout_h * dh
    if masks.zoneout_c is not None:
        dprev_c = dprev_c + masks.zoneout_c * dc
    return dprev_h, dprev_c, dnew, (dz, dr, dout, dseen)


def expectations(cell, masks=CellMasks()):  # noqa: B008  a tuple: it cannot change
    """The masks, with the rates of zoneout where no mask was drawn; None where there is no zoneout."""
    zoneout_h = cell.zoneout_h or None if masks.zoneout_h is None else masks.zoneout_h
    zoneout_c = cell.zoneout_c or None if masks.zoneout_c is None else masks.zoneout_c
    return CellMasks(masks.recurrent, zoneout_h, zoneout_c)


def forward(x, h0, c0, params, cell=PLAIN, masks=CellMasks(), *, lengths=None, reverse=False, keep=True):  # noqa: B008
    """One direction of one layer: x (N, T, D), h0 (N, R) and c0 (N, H) or None -> h (N, T, R) and a `VariantCache`.

    The arguments are not checked here. With keep=False the cache has the final state only.
    """
    xp = checks.namespace(x)
    timeline = Timeline.of(x, lengths, reverse, xp)
    wide, narrow = conversions(x, xp)
    p = wide_parameters(params, wide)
    N, T, H, R = x.shape[0], x.shape[1], p.Wx.shape[1] // 4, p.Wh.shape[0]
    a = xp.reshape(input_part(rows_of(wide(timeline.steps(x)), xp), p, xp), (T, N, 4 * H))
    first_h, first_c, h, c = _starts(h0, c0, x, p, timeline, xp)
    valid = None if lengths is None else timeline.valid(T)
    drawn = _in_order(masks, cell, timeline, wide)
    all_h, all_c, all_cells, all_z, all_gates = [], [], [], [], []
    for t in range(T):
        next_h, next_c, (new, z, gates) = step(a[t, ...], wide(h), c, p, cell, _at(drawn, t), xp)
        next_h = narrow(next_h)
        if lengths is not None:
            next_h, next_c = (where(valid[t, ...], v, old, xp) for v, old in ((next_h, h), (next_c, c)))
        h, c = next_h, next_c
        all_h.append(h)
        if keep:
            all_c.append(c)
            all_cells.append(new)
            all_z.append(xp.concat(z, axis=-1))
            all_gates.append(xp.concat(gates, axis=-1))

    def stacked(steps, K, like):
        return xp.stack(steps) if T else xp.zeros((T, N, K), dtype=like.dtype, device=timeline.device)

    y = timeline.restore(stacked(all_h, R, h))
    kept = (None,) * 9
    if keep:
        c_states = stacked(all_c, H, c)
        cells = c_states if drawn.zoneout_c is None else stacked(all_cells, H, c)
        parts = (c_states, cells, stacked(all_z, 4 * H, c), stacked(all_gates, 4 * H, c))
        kept = (x, h0, c0, params, y, *(xp.permute_dims(part, (1, 0, 2)) for part in parts))
    last = (timeline.where_empty(first_h, h), timeline.where_empty(first_c, c))
    h_n, c_n = (xp.astype(v, x.dtype, copy=True) for v in last)
    cache = VariantCache(*kept[:4], cell, masks, *kept[4:], h_n, c_n, lengths, reverse)
    return y, cache


def backward(dy, dh_n, dc_n, cache, *, need_dx=True, record=None):
    """The gradients of x (None if not needed), h0, c0 and the parameters.

    They come from those of h, h_n and c_n, each of which may be None for zeros. `record`, a list, is given dz (N, 4H)
    and all that reaches h and c at each step, the last one first.
    """
    x = cache.x
    xp = checks.namespace(x)
    timeline = Timeline.of(x, cache.lengths, cache.reverse, xp)
    wide, narrow = conversions(x, xp)
    p = wide_parameters(cache.params, wide)
    N, T, D = x.shape
    _, _, h0, c0 = _starts(cache.h0, cache.c0, x, p, timeline, xp)
    last_h = xp.zeros_like(wide(h0)) if dh_n is None else wide(dh_n)
    last_c = xp.zeros_like(c0) if dc_n is None else wide(dc_n)
    if T == 0:
        zeros = (v if v is None else xp.zeros_like(v) for v in cache.params)
        dh0, dc0 = (xp.astype(v, x.dtype, copy=True) for v in (last_h, last_c))
        return xp.zeros_like(x) if need_dx else None, dh0, dc0, Direction(*zeros)

    c, cells, z, gates = (xp.permute_dims(v, (1, 0, 2)) for v in (cache.c, cache.cells, cache.z, cache.gates))
    prev_h = xp.concat([wide(h0)[None, ...], wide(timeline.steps(cache.h))])[:-1, ...]
    prev_c = xp.concat([c0[None, ...], c])[:-1, ...]
    drawn = _in_order(cache.masks, cache.cell, timeline, wide)
    fed = prev_h if drawn.recurrent is None else prev_h * drawn.recurrent
    slopes = _slopes(fed, prev_c, cells, z, gates, p, cache.cell, xp)

    valid = None if cache.lengths is None else timeline.valid(T)
    dy = None if dy is None else wide(timeline.steps(dy))
    dh, dc = (timeline.where_empty(xp.zeros_like(v), v) for v in (last_h, last_c))
    steps = []
    for t in reversed(range(T)):
        if dy is not None:
            dh = dh + dy[t, ...]
        if t % FADES == 0:
            dh, dc = _without_faded(dh, xp), _without_faded(dc, xp)
        dprev_h, dprev_c, dnew, between = step_backward(dh, dc, _at(slopes, t), p, _at(drawn, t), xp)
        steps.append(between)
        if record is not None:
            record.append((between[0], dh, dnew if drawn.zoneout_c is None else dc))
        if valid is not None:
            dprev_h, dprev_c = xp.where(valid[t, ...], dprev_h, dh), xp.where(valid[t, ...], dprev_c, dc)
        dh, dc = dprev_h, dprev_c
    dh0, dc0 = narrow(timeline.where_empty(last_h, dh)), narrow(timeline.where_empty(last_c, dc))

    dz, dr, dout, dseen = (timeline.zero_padding(xp.stack(kind[::-1])) for kind in zip(*steps, strict=True))
    rows, da = rows_of(wide(timeline.steps(x)), xp), rows_of(dz, xp)
    found = {"b": xp.sum(da, axis=0)}
    if p.gain_x is not None:
        hat_x, scale_x = _normalised(xp.matmul(rows, p.Wx), xp)
        found["gain_x"] = xp.sum(da * hat_x, axis=0)
        da = _through_norm(da * p.gain_x, hat_x, scale_x, xp)
    found |= {"Wx": xp.matmul(rows.T, da), "Wh": xp.matmul(rows_of(fed, xp).T, rows_of(dr, xp))}
    if p.gain_h is not None:
        found["gain_h"] = xp.sum(dz * slopes.hat_h, axis=(0, 1))
        found |= {"gain_c": xp.sum(dseen * slopes.hat_c, axis=(0, 1)), "bias_c": xp.sum(dseen, axis=(0, 1))}
    if p.peepholes is not None:
        dz_i, dz_f, dz_o, _ = split(dz)
        pairs = ((dz_i, prev_c), (dz_f, prev_c), (dz_o, cells))
        found["peepholes"] = xp.stack([xp.sum(part * seen, axis=(0, 1)) for part, seen in pairs])
    if p.Wp is not None:
        _, _, o, _ = split(gates)
        found["Wp"] = xp.matmul(rows_of(o * slopes.out, xp).T, rows_of(dout, xp))
    dx = timeline.restore(xp.reshape(narrow(xp.matmul(da, p.Wx.T)), (T, N, D))) if need_dx else None
    gradients = [None if array is None else narrow(found[name]) for name, array in zip(p._fields, p, strict=True)]
    return dx, dh0, dc0, Direction(*gradients)


def backward_steps(dy, dh_n, dc_n, cache):
    """dz (N, T, 4H), and all that reaches h (N, T, R) and c (N, T, H), at each step: arguments as in `backward`."""
    xp = checks.namespace(cache.x)
    if cache.x.shape[1] == 0:
        wide, _ = conversions(cache.x, xp)
        return tuple(xp.zeros_like(wide(v)) for v in (cache.gates, cache.h, cache.c))
    record = []
    backward(dy, dh_n, dc_n, cache, need_dx=False, record=record)
    return Timeline.of(cache.x, cache.lengths, cache.reverse, xp).restored(record[::-1])


def _without_faded(v, xp):
    """Zeros in place of what would soon be denormal: there gradients end that shrink at each step, not at 0.

    Processors take up to a hundred times as long for such numbers.
    """
    limits = xp.finfo(v.dtype)
    least = float(limits.smallest_normal) / float(limits.eps)
    return xp.where(xp.abs(v) < least, xp.zeros_like(v), v)


def _slopes(fed, prev_c, cells, z, gates, p, cell, xp):
    F, G, activation_h = cell.activations
    i, f, o, g = split(gates)
    kinds = zip((F, F, F, G), split(z), split(gates), strict=True)
    slope_i, slope_f, slope_o, slope_g = (
        _clipped_slope(kind.slope(part, gate, xp), part, cell, xp) for kind, part, gate in kinds
    )
    seen = _seen(cells, p, xp)
    out = activation_h(seen, xp)
    c_to_i, c_to_f = g * slope_i, prev_c * slope_f
    if cell.coupled:
        c_to_i, c_to_f = (g - prev_c) * slope_i, xp.zeros_like(c_to_f)
    hat_h, scale_h = (None, None) if p.gain_h is None else _normalised(xp.matmul(fed, p.Wh), xp)
    hat_c, scale_c = (None, None) if p.gain_c is None else _normalised(cells, xp)
    m_to_seen = o * activation_h.slope(seen, out, xp)
    return Slopes(m_to_seen, out * slope_o, c_to_i, c_to_f, i * slope_g, f, out, hat_h, scale_h, hat_c, scale_c)


def _starts(h0, c0, x, p, timeline, xp):
    """The initial state as given (zeros for None), and as the recurrence starts: zeros for rows without steps."""
    wide, _ = conversions(x, xp)
    N, R, H = x.shape[0], p.Wh.shape[0], p.Wh.shape[1] // 4
    h = xp.zeros((N, R), dtype=x.dtype, device=timeline.device) if h0 is None else h0
    c = xp.zeros((N, H), dtype=p.Wh.dtype, device=timeline.device) if c0 is None else wide(c0)
    return h, c, *(timeline.where_empty(xp.zeros_like(v), v) for v in (h, c))


def _in_order(masks, cell, timeline, wide):
    """The masks in the order of processing, time first; zoneout's expectations where no mask was drawn."""
    recurrent = None if masks.recurrent is None else wide(masks.recurrent)
    steps = (None if mask is None else wide(timeline.steps(mask)) for mask in masks[1:])
    return expectations(cell, CellMasks(recurrent, *steps))


def _at(parts, t):
    """A tuple of arrays at step t. What has no time, stays: None, rates, and the recurrent mask (N, R)."""
    return parts._replace(**{
        name: part[t, ...]
        for name, part in zip(parts._fields, parts, strict=True)
        if name != "recurrent" and not (part is None or isinstance(part, float))
    })  # fmt: skip


def _seen(c, p, xp):
    """The cell state as its output activation sees it."""
    return c if p.gain_c is None else _normalised(c, xp)[0] * p.gain_c + p.bias_c


def _clipped(z, clip, xp):
    if clip is None:
        return z
    bound = xp.full_like(z, clip)
    return xp.where(z > clip, bound, xp.where(z < -clip, -bound, z))


def _clipped_slope(slope, z, cell, xp):
    """The slope of a gate, zero where its pre-activation was clipped."""
    if cell.clip is None:
        return slope
    return xp.where((z >= cell.clip) | (z <= -cell.clip), xp.zeros_like(slope), slope)


def _normalised(v, xp):
    """Rows of mean 0 and variance 1 (but for EPSILON), and what they were multiplied with."""
    centred = v - xp.mean(v, axis=-1, keepdims=True)
    scale = 1 / xp.sqrt(xp.mean(centred * centred, axis=-1, keepdims=True) + EPSILON)
    return centred * scale, scale


def _through_norm(dhat, hat, scale, xp):
    """The gradient of what was normalised, from that of the rows `hat`."""
    mean, along = xp.mean(dhat, axis=-1, keepdims=True), xp.mean(dhat * hat, axis=-1, keepdims=True)
    return scale * (dhat - mean - hat * along)
