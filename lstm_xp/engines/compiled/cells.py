"""The equations of `cell.py` for vectors of units, as numba compiles them: gates, cell state, output and gradients."""

from numba import njit

from .vectors import clamp, expm1, lanes, load, ratio, store

# So many vectors of h are computed at once.
ABREAST = 4
# Beyond this, exp(-x) is lost beside 1, in float64 too.
BOUND = 40.0


@njit(inline="always")
def activations(z_i, z_f, z_o, z_g, one, bound):
    """Three logistic functions and a tanh, exactly 0, 1 and -1 when saturated.

    With e = exp(z) - 1, the logistic function is (e + 1) / (e + 2); with e = exp(2 z) - 1, tanh is e / (e + 2).
    """
    e_i, e_f, e_o, e_g = expm1(clamp((z_i, z_f, z_o, z_g + z_g), bound))
    two = one + one
    return ratio((e_i + one, e_f + one, e_o + one, e_g), (e_i + two, e_f + two, e_o + two, e_g + two))


@njit(inline="always")
def tanh(z, one, bound):
    (e,) = expm1(clamp((z + z,), bound))
    return ratio((e,), (e + (one + one),))[0]


@njit(inline="always")
def cell(a, z, gate, prev_c, prev, next_c, next, gates, x, H, keep, count, one, bound):
    """The equations of `cell.cell_forward` for `count` units, but for h: next c, and with `keep` the gates.

    In `a`, from which whole vectors are read, o takes the place of its pre-activation, for `outputs`.
    """
    i, f, o, g = activations(
        load(a, z, lanes(a)),
        load(a, z + gate, lanes(a)),
        load(a, z + 2 * gate, lanes(a)),
        load(a, z + 3 * gate, lanes(a)),
        one,
        bound,
    )
    c = f * load(prev_c, prev, count) + i * g
    if keep:
        store(gates, x, i, count)
        store(gates, x + H, f, count)
        store(gates, x + 2 * H, o, count)
        store(gates, x + 3 * H, g, count)
    store(next_c, next, c, count)
    store(a, z + 2 * gate, o, count)


@njit(inline="always")
def outputs(a, o, o_step, c, next, c_step, h, y, h_step, several, left, less, one, bound):
    """h = o tanh(c) for several vectors, ABREAST at most, at once: one alone would mostly wait for itself.

    Each next vector is a step further in a, c and h, and begins with `less` fewer of `left` units.
    """
    k1, k2, k3 = min(1, several - 1), min(2, several - 1), min(3, several - 1)
    n0, n1, n2, n3 = left, left - k1 * less, left - k2 * less, left - k3 * less
    z0, z1, z2, z3 = (
        load(c, next, n0),
        load(c, next + k1 * c_step, n1),
        load(c, next + k2 * c_step, n2),
        load(c, next + k3 * c_step, n3),
    )
    e0, e1, e2, e3 = expm1(clamp((z0 + z0, z1 + z1, z2 + z2, z3 + z3), bound))
    two = one + one
    u0, u1, u2, u3 = ratio((e0, e1, e2, e3), (e0 + two, e1 + two, e2 + two, e3 + two))
    store(h, y, load(a, o, n0) * u0, n0)
    store(h, y + k1 * h_step, load(a, o + k1 * o_step, n1) * u1, n1)
    store(h, y + k2 * h_step, load(a, o + k2 * o_step, n2) * u2, n2)
    store(h, y + k3 * h_step, load(a, o + k3 * o_step, n3) * u3, n3)


@njit(inline="always")
def cell_gradient(gates, z, H, c, x, prev_c, prev, carry, y, dh, d, dc, da, a, count, one, bound):
    """The equations of `cell.cell_backward` for `count` units: da, and dc of the step before."""
    i, f, o, g = (
        load(gates, z, count),
        load(gates, z + H, count),
        load(gates, z + 2 * H, count),
        load(gates, z + 3 * H, count),
    )
    u = tanh(load(c, x, count), one, bound)
    dh_j = load(carry, y, count) + load(dh, d, count)
    dc_j = load(dc, y, count) + dh_j * o * (one - u * u)
    store(da, a, dc_j * g * (i * (one - i)), count)
    store(da, a + H, dc_j * load(prev_c, prev, count) * (f * (one - f)), count)
    store(da, a + 2 * H, dh_j * u * (o * (one - o)), count)
    store(da, a + 3 * H, dc_j * i * (one - g * g), count)
    store(dc, y, dc_j * f, count)
