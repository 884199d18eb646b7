r"""The cell variants: one step forwards and one backwards, in the terms of any array library.

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
it.

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

from typing import NamedTuple

from .activations import Activation
from .cell import split
from .checks import Array

EPSILON = 1e-5  # of layer normalisation


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


class States(NamedTuple):
    """What is kept of each step: c, held behind the lengths; the cell states before zoneout; the pre-activations after
    clipping, or None where slopes need none; the gates. `cells` and `c` are one array where there is no zoneout.
    """

    c: Array
    cells: Array
    z: Array | None
    gates: Array


class Norms(NamedTuple):
    """What was normalised, of h Wh and of the cell states, and what it was multiplied with; None without."""

    hat_h: Array | None = None
    scale_h: Array | None = None
    hat_c: Array | None = None
    scale_c: Array | None = None


class Between(NamedTuple):
    """What lies between the gradients of the states: those of the pre-activations (dz), of h Wh before its
    normalisation (dr), of h as the cell computed it (dout), of the cell state as its activation sees it (dseen); and m,
    what is projected. Where there is no normalisation dr is dz, and an engine leaves out what nobody asks for.
    """

    dz: Array
    dr: Array
    dout: Array
    dseen: Array
    m: Array


class Slopes(NamedTuple):
    """What a step's gradients are multiplied with, of all steps at once: nothing here depends on later steps.

    `c_to_i` takes the gradient of c to that of z_i, and so on; m = o * H(seen) is h before its projection, with the
    cell state as `seen` by H. hat and scale are those of the normalisations.
    """

    m_to_seen: Array
    m_to_o: Array
    c_to_i: Array
    c_to_f: Array
    c_to_g: Array
    f: Array
    m: Array
    hat_h: Array | None
    scale_h: Array | None
    hat_c: Array | None
    scale_c: Array | None


def input_part(x, p, xp, product):
    """What x (rows, D) adds to the pre-activations of its step (rows, 4H); by a product of two matrices and a bias."""
    if p.gain_x is None:
        return product(x, p.Wx, p.b)
    a = normalised(product(x, p.Wx), xp)[0] * p.gain_x
    return a if p.b is None else a + p.b


def step(a, prev_h, prev_c, p, cell, masks, xp):
    """One time step from the input's part a (N, 4H): h, c, c as the cell computed it, z and the gates, each in four.

    The masks are this step's.
    """
    F, G, activation_h = cell.activations
    fed = prev_h if masks.recurrent is None else prev_h * masks.recurrent
    recurrent = xp.matmul(fed, p.Wh)
    if p.gain_h is not None:
        recurrent = normalised(recurrent, xp)[0] * p.gain_h
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
    return next_h, next_c, c, (z_i, z_f, z_o, z_g), (i, f, o, g)


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
    dnew = dnew + (dseen if p.gain_c is None else through_norm(dseen * p.gain_c, slopes.hat_c, slopes.scale_c, xp))
    if p.peepholes is not None:
        dnew = dnew + p.peepholes[2, :] * dz_o
    dz_i, dz_f, dz_g = dnew * slopes.c_to_i, dnew * slopes.c_to_f, dnew * slopes.c_to_g
    dz = dr = xp.concat([dz_i, dz_f, dz_o, dz_g], axis=-1)
    if p.gain_h is not None:
        dr = through_norm(dz * p.gain_h, slopes.hat_h, slopes.scale_h, xp)
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


def slopes(c0, states, norms, p, cell, xp):
    """The `Slopes` of all steps."""
    F, G, activation_h = cell.activations
    i, f, o, g = split(states.gates)
    z = (None,) * 4 if states.z is None else split(states.z)
    kinds = zip((F, F, F, G), z, (i, f, o, g), strict=True)
    slope_i, slope_f, slope_o, slope_g = (
        _clipped_slope(kind.slope(part, gate, xp), part, cell, xp) for kind, part, gate in kinds
    )
    seen = states.cells if p.gain_c is None else norms.hat_c * p.gain_c + p.bias_c
    out = activation_h(seen, xp)
    prev_c = before(states.c, c0, xp)
    c_to_i, c_to_f = g * slope_i, prev_c * slope_f
    if cell.coupled:
        c_to_i, c_to_f = (g - prev_c) * slope_i, xp.zeros_like(c_to_f)
    m_to_seen = o * activation_h.slope(seen, out, xp)
    return Slopes(m_to_seen, out * slope_o, c_to_i, c_to_f, i * slope_g, f, o * out, *norms)


def before(v, first, xp):
    """The states (T, N, K) before each step, from those after it and the first one."""
    return xp.concat([first[None, ...], v[:-1, ...]])


def expectations(cell, masks=CellMasks()):  # noqa: B008  a tuple: it cannot change
    """The masks, with the rates of zoneout where no mask was drawn; None where there is no zoneout."""
    zoneout_h = cell.zoneout_h or None if masks.zoneout_h is None else masks.zoneout_h
    zoneout_c = cell.zoneout_c or None if masks.zoneout_c is None else masks.zoneout_c
    return CellMasks(masks.recurrent, zoneout_h, zoneout_c)


def at_step(parts, t):
    """A tuple of arrays at step t. What has no time, stays: None, rates, and the recurrent mask (N, R)."""
    return parts._replace(**{
        name: part[t, ...]
        for name, part in zip(parts._fields, parts, strict=True)
        if name != "recurrent" and not (part is None or isinstance(part, float))
    })  # fmt: skip


def _seen(c, p, xp):
    """The cell state as its output activation sees it."""
    return c if p.gain_c is None else normalised(c, xp)[0] * p.gain_c + p.bias_c


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


def normalised(v, xp):
    """Rows of mean 0 and variance 1 (but for EPSILON), and what they were multiplied with."""
    centred = v - xp.mean(v, axis=-1, keepdims=True)
    scale = 1 / xp.sqrt(xp.mean(centred * centred, axis=-1, keepdims=True) + EPSILON)
    return centred * scale, scale


def through_norm(dhat, hat, scale, xp):
    """The gradient of what was normalised, from that of the rows `hat`."""
    mean, along = xp.mean(dhat, axis=-1, keepdims=True), xp.mean(dhat * hat, axis=-1, keepdims=True)
    return scale * (dhat - mean - hat * along)
