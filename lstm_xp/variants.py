"""Sequences of cells that are not the plain one (`variant_cells.py`): what stands around their steps.

As in `stages.py`, one product over all steps comes before the recurrence, which an engine runs, and a few products come
after its gradients. Behind a row's length the states are held: no gate needs to saturate.
"""

import math
from typing import Any, NamedTuple

from . import checks, engines, stages
from .cell import conversions, split
from .checks import Array
from .parameters import Direction
from .records import SequenceCache
from .timeline import Timeline, rows_of
from .variant_cells import (
    PLAIN,
    Cell,
    CellMasks,
    Norms,
    States,
    before,
    expectations,
    input_part,
    normalised,
    through_norm,
)


class VariantCache(NamedTuple):
    """What `backward` needs, and the final state. The arguments and h, which is the returned one, are referred to.

    The arrays (N, T, .) from c to gates are in the order of processing: `c` the cell states, held behind the lengths,
    `cells` those before zoneout, `z` the pre-activations after clipping, or None where `engine`, which ran the steps,
    needs none. The properties i, f, o, g (N, T, H) are in the caller's order of time.
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
    engine: Any

    @property
    def states(self):
        """c, cells, z and gates."""
        return self.c, self.cells, self.z, self.gates

    i, f, o, g, _gate = SequenceCache.i, SequenceCache.f, SequenceCache.o, SequenceCache.g, SequenceCache._gate

    @property
    def nbytes(self):
        """Bytes held beside the caller's arrays and the returned h."""
        cells = None if self.masks.zoneout_c is None and not self.cell.zoneout_c else self.cells
        held = [v for v in (self.c, cells, self.z, self.gates, self.h_n, self.c_n) if v is not None]
        return sum(math.prod(v.shape) * checks.itemsize(v.dtype) for v in held)


def is_plain(params, cell, masks):
    """Whether this is the plain cell, which `lstm_forward` computes faster."""
    extras = (*params[3:], *masks)
    return cell == PLAIN and all(extra is None for extra in extras)


def wide_parameters(params, wide):
    """The parameters in the compute dtype."""
    return Direction(*(None if array is None else wide(array) for array in params))


def forward(
    x, h0, c0, params, cell=PLAIN, masks=CellMasks(), *, lengths=None, reverse=False, keep=True, engine="array_api"  # noqa: B008
):  # fmt: skip
    """One direction of one layer: x (N, T, D), h0 (N, R) and c0 (N, H) or None -> h (N, T, R) and a `VariantCache`.

    The arguments are not checked here. With keep=False the cache has the final state only.
    """
    xp = checks.namespace(x)
    timeline = Timeline.of(x, lengths, reverse, xp)
    wide, _ = conversions(x, xp)
    p = wide_parameters(params, wide)
    (N, T, _), H = x.shape, p.Wh.shape[1] // 4
    given_h, given_c, first_h, first_c = _starts(h0, c0, x, p, timeline, xp)
    h, c, parts = first_h, first_c, []
    if N and T:
        chosen, library = engines.load(engine), checks.array_library(xp)
        in_parts = not keep and library in engines.ASSIGNABLE
        for start, stop in stages.chunks(T, N, H, library) if in_parts else [(0, T)]:
            a = input_part(rows_of(wide(timeline.steps(x, start, stop)), xp), p, xp, engines.product(chosen))
            a, drawn = xp.reshape(a, (stop - start, N, 4 * H)), _in_order(masks, cell, timeline, wide, start, stop)
            left = None if lengths is None else lengths - start
            part, c, states = chosen.cells(a, h, c, p, cell, drawn, left, keep=keep)
            h = part[-1, ...]
            parts.append(part)
    else:
        sizes = ((h, h.shape[1]), (c, H), (c, H), (c, 4 * H), (c, 4 * H))
        part, *states = (xp.zeros((T, N, K), dtype=v.dtype, device=timeline.device) for v, K in sizes)
        parts.append(part)
    y = timeline.restore(xp.concat(parts) if len(parts) > 1 else parts[0])
    kept = (None,) * 9
    if keep:
        kept = (x, h0, c0, params, y, *(v if v is None else xp.permute_dims(v, (1, 0, 2)) for v in states))
    ends = (timeline.where_empty(given_h, h), timeline.where_empty(given_c, c))
    h_n, c_n = (xp.astype(v, x.dtype, copy=True) for v in ends)
    return y, VariantCache(*kept[:4], cell, masks, *kept[4:], h_n, c_n, lengths, reverse, engine)


def backward(dy, dh_n, dc_n, cache, *, need_dx=True, record=None):
    """The gradients of x (None if not needed), h0, c0 and the parameters.

    They come from those of h, h_n and c_n, each of which may be None for zeros. `record`, a list, is given dz (N, 4H)
    and all that reaches h and c at each step, the last one first, by the reference engine.
    """
    x, cell = cache.x, cache.cell
    xp = checks.namespace(x)
    timeline = Timeline.of(x, cache.lengths, cache.reverse, xp)
    wide, narrow = conversions(x, xp)
    p = wide_parameters(cache.params, wide)
    N, T, D = x.shape
    _, _, h0, c0 = _starts(cache.h0, cache.c0, x, p, timeline, xp)
    last_h = xp.zeros_like(wide(h0)) if dh_n is None else wide(dh_n)
    last_c = xp.zeros_like(c0) if dc_n is None else wide(dc_n)
    if N == 0 or T == 0:
        zeros = (v if v is None else xp.zeros_like(v) for v in cache.params)
        dh0, dc0 = (xp.astype(v, x.dtype, copy=True) for v in (last_h, last_c))
        return xp.zeros_like(x) if need_dx else None, dh0, dc0, Direction(*zeros)

    engine = engines.load(cache.engine if record is None else "array_api")
    product = engines.product(engine)
    states = States(*(v if v is None else xp.permute_dims(v, (1, 0, 2)) for v in cache.states))
    prev_h = before(wide(timeline.steps(cache.h)), wide(h0), xp)
    drawn = _in_order(cache.masks, cell, timeline, wide)
    fed = prev_h if drawn.recurrent is None else prev_h * drawn.recurrent
    norms = Norms()
    if p.gain_h is not None:
        recurrent = xp.reshape(product(rows_of(fed, xp), p.Wh), states.gates.shape)
        norms = Norms(*normalised(recurrent, xp), *normalised(states.cells, xp))
    dy = None if dy is None else wide(timeline.steps(dy))
    dh, dc = (timeline.where_empty(xp.zeros_like(v), v) for v in (last_h, last_c))
    options = {} if record is None else {"record": record}
    dh, dc, between = engine.cells_gradients(
        dy, dh, dc, c0, states, norms, p, cell, drawn, cache.lengths, **options
    )  # fmt: skip
    dh0, dc0 = narrow(timeline.where_empty(last_h, dh)), narrow(timeline.where_empty(last_c, dc))

    rows, da = rows_of(wide(timeline.steps(x)), xp), rows_of(between.dz, xp)
    found = {"b": xp.sum(da, axis=0)}
    if p.gain_x is not None:
        hat_x, scale_x = normalised(product(rows, p.Wx), xp)
        found["gain_x"] = xp.sum(da * hat_x, axis=0)
        da = through_norm(da * p.gain_x, hat_x, scale_x, xp)
    found |= {"Wx": product(rows.T, da), "Wh": product(rows_of(fed, xp).T, rows_of(between.dr, xp))}
    if p.gain_h is not None:
        found["gain_h"] = xp.sum(between.dz * norms.hat_h, axis=(0, 1))
        found["gain_c"] = xp.sum(between.dseen * norms.hat_c, axis=(0, 1))
        found["bias_c"] = xp.sum(between.dseen, axis=(0, 1))
    if p.peepholes is not None:
        dz_i, dz_f, dz_o, _ = split(between.dz)
        prev_c = before(states.c, c0, xp)
        pairs = ((dz_i, prev_c), (dz_f, prev_c), (dz_o, states.cells))
        found["peepholes"] = xp.stack([xp.sum(part * seen, axis=(0, 1)) for part, seen in pairs])
    if p.Wp is not None:
        found["Wp"] = product(rows_of(between.m, xp).T, rows_of(between.dout, xp))
    dx = timeline.restore(xp.reshape(narrow(product(da, p.Wx.T)), (T, N, D))) if need_dx else None
    gradients = [None if array is None else narrow(found[name]) for name, array in zip(p._fields, p, strict=True)]
    return dx, dh0, dc0, Direction(*gradients)


def backward_steps(dy, dh_n, dc_n, cache):
    """dz (N, T, 4H), and all that reaches h (N, T, R) and c (N, T, H), at each step: arguments as in `backward`."""
    xp = checks.namespace(cache.x)
    if 0 in cache.x.shape[:2]:
        wide, _ = conversions(cache.x, xp)
        return tuple(xp.zeros_like(wide(v)) for v in (cache.gates, cache.h, cache.c))
    record = []
    backward(dy, dh_n, dc_n, cache, need_dx=False, record=record)
    return Timeline.of(cache.x, cache.lengths, cache.reverse, xp).restored(record[::-1])


def _starts(h0, c0, x, p, timeline, xp):
    """The initial state as given (zeros for None), and as the recurrence starts: zeros for rows without steps."""
    wide, _ = conversions(x, xp)
    N, R, H = x.shape[0], p.Wh.shape[0], p.Wh.shape[1] // 4
    h = xp.zeros((N, R), dtype=x.dtype, device=timeline.device) if h0 is None else h0
    c = xp.zeros((N, H), dtype=p.Wh.dtype, device=timeline.device) if c0 is None else wide(c0)
    return h, c, *(timeline.where_empty(xp.zeros_like(v), v) for v in (h, c))


def _in_order(masks, cell, timeline, wide, start=0, stop=None):
    """The masks of some steps in the order of processing, time first; zoneout's expectations where none was drawn."""
    recurrent = None if masks.recurrent is None else wide(masks.recurrent)
    steps = (None if mask is None else wide(timeline.steps(mask, start, stop)) for mask in masks[1:])
    return expectations(cell, CellMasks(recurrent, *steps))
