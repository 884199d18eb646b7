"""Cell variants to test, random problems for them, and how they are run."""

from typing import NamedTuple

import numpy as np
import variant_oracle
from problems import same_bits, settled

from lstm_xp import checks, variants
from lstm_xp.activations import activation
from lstm_xp.parameters import Direction
from lstm_xp.testing import assert_close
from lstm_xp.variant_cells import Cell, CellMasks

PLAIN = ("Sigmoid", "Tanh", "Tanh")
ODD = ("HardSigmoid", "Softsign", ("ScaledTanh", 1.3, 0.7))
RATES = {"zoneout_h": 0.3, "zoneout_c": 0.2}


class Variant(NamedTuple):
    """Which parts a cell has. Zoneout is 'mask', 'rate', or None."""

    projection: bool = False
    peepholes: bool = False
    layer_norm: bool = False
    bias: bool = True
    coupled: bool = False
    clip: float | None = None
    activations: tuple = PLAIN
    recurrent: bool = False
    zoneout_h: str | None = None
    zoneout_c: str | None = None

    @property
    def cell(self):
        kinds = tuple(activation("test", kind) for kind in self.activations)
        rates = [RATES[name] if getattr(self, name) else 0.0 for name in RATES]
        return Cell(kinds, self.coupled, self.clip, *rates)


VARIANTS = {
    "plain": Variant(),
    "no bias": Variant(bias=False),
    "projection": Variant(projection=True),
    "peepholes": Variant(peepholes=True),
    "coupled": Variant(coupled=True),
    "clip": Variant(clip=0.8),
    "layer norm": Variant(layer_norm=True),
    "recurrent dropout": Variant(recurrent=True),
    "zoneout of h": Variant(zoneout_h="mask"),
    "zoneout of c": Variant(zoneout_c="mask"),
    "zoneout, expected": Variant(zoneout_h="rate", zoneout_c="rate"),
    "activations": Variant(activations=ODD),
    "coupled, peepholes": Variant(coupled=True, peepholes=True),
    "all": Variant(True, True, True, True, False, 1.5, ODD, True, "mask", "mask"),
    "all, coupled": Variant(True, True, True, False, True, 1.5, ("Sigmoid", "Elu", "Tanh"), True, "rate", "mask"),
}
# All at once, but for normalisation, which keeps threads from dividing the units.
_MOST = Variant(True, True, False, True, False, 1.5, ("HardSigmoid", "Softsign", "Elu"), True, "mask", "mask")
MANY = VARIANTS | {
    "all but layer norm": _MOST,
    "all but layer norm, rates": _MOST._replace(zoneout_h="rate", clip=None),
}
WIDE = ("all", "all, coupled")  # between them, every line of the general recurrence

STATES = ("x", "h0", "c0")
OUTPUTS = ("h", "h_n", "c_n")
COTANGENTS = ("dy", "dh_n", "dc_n")
MASKS = CellMasks._fields


def random_problem(variant, N=4, T=5, D=3, H=6, P=2, seed=0):
    """Arguments, cotangents and masks by name: float64, all random, none of them zero, no two sizes alike."""
    rng = np.random.default_rng(seed)
    R = P if variant.projection else H
    shapes = {"x": (N, T, D), "h0": (N, R), "c0": (N, H), "Wx": (D, 4 * H), "Wh": (R, 4 * H)}
    shapes |= {"b": (4 * H,)} if variant.bias else {}
    shapes |= {"Wp": (H, P)} if variant.projection else {}
    shapes |= {"peepholes": (3, H)} if variant.peepholes else {}
    if variant.layer_norm:
        shapes |= {"gain_x": (4 * H,), "gain_h": (4 * H,), "gain_c": (H,), "bias_c": (H,)}
    shapes |= {"dy": (N, T, R), "dh_n": (N, R), "dc_n": (N, H)}
    values = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    for name, rows in (("Wx", D), ("Wh", R), ("Wp", H)):
        if name in values:
            values[name] /= rows**0.5
    drawn = {"recurrent": 2.0 * (rng.random((N, R)) < 0.5)}
    drawn |= {"zoneout_h": 1.0 * (rng.random((N, T, R)) < 0.3), "zoneout_c": 1.0 * (rng.random((N, T, H)) < 0.3)}
    values |= {name: mask for name, mask in drawn.items() if getattr(variant, name) in (True, "mask")}
    return values


def forward(variant, arrays, package=variants, lengths=None, **options):
    """`variants.forward` on arrays by name; the lengths are settled first, as `LSTM` does."""
    lengths = checks.sequence_lengths("test", lengths, arrays["x"], checks.namespace(arrays["x"]))
    params = Direction(**{name: arrays[name] for name in Direction._fields if name in arrays})
    masks = CellMasks(**{name: arrays[name] for name in MASKS if name in arrays})
    x, h0, c0 = (arrays.get(name) for name in STATES)
    return package.forward(x, h0, c0, params, variant.cell, masks, lengths=lengths, **options)


def backward(arrays, cache, package=variants):
    """`variants.backward`: the gradients by the names of the arguments."""
    dx, dh0, dc0, dparams = package.backward(*(arrays.get(name) for name in COTANGENTS), cache)
    found = {"x": dx, "h0": dh0, "c0": dc0, **dparams._asdict()}
    return {name: gradient for name, gradient in found.items() if gradient is not None}


def run(variant, arrays, **order):
    """Outputs, and gradients as dx, dh0, ..., by name."""
    h, cache = forward(variant, arrays, **order)
    results = {"h": h, "h_n": cache.h_n, "c_n": cache.c_n}
    results |= {f"d{name}": gradient for name, gradient in backward(arrays, cache).items()}
    return settled(results)


def outputs_of(variant, values, **order):
    """The outputs by name, by the scalar LSTM of `variant_oracle`."""
    N, T, _ = values["x"].shape
    defaults = {"recurrent": np.ones_like(values["h0"])}
    for name, states in (("zoneout_h", "h0"), ("zoneout_c", "c0")):
        rate = RATES[name] if getattr(variant, name) == "rate" else 0.0
        defaults[name] = np.full((N, T, values[states].shape[1]), rate)
    masks = {name: values.get(name, default).tolist() for name, default in defaults.items()}
    p = {name: values[name].tolist() for name in Direction._fields if name in values}
    found = variant_oracle.lstm(
        *(values[name].tolist() for name in STATES), p, masks,
        activations=variant.activations, coupled=variant.coupled, clip=variant.clip, **order,
    )  # fmt: skip
    shapes = ((N, T, values["h0"].shape[1]), values["h0"].shape, values["c0"].shape)
    return {name: np.reshape(part, shape) for name, part, shape in zip(OUTPUTS, found, shapes, strict=True)}


def compare(results, expected, like, steps):
    """Compare by name with float64 results."""
    for name, result in results.items():
        kind = "forward" if name in OUTPUTS else "gradient"
        assert_close(result, np.asarray(expected[name]), like=like, kind=kind, steps=steps, name=name)


# --- For the compiled engine


def typed(values, dtype):
    """The values by name as another dtype has them."""
    return {name: value.astype(dtype) for name, value in values.items()}


def numba_run(variant, arrays, **order):
    """Outputs and gradients of the compiled engine; and the outputs without training, which are the same."""
    results = run(variant, arrays, engine="numpy_numba", **order)
    h, cache = forward(variant, arrays, engine="numpy_numba", keep=False, **order)
    for name, light in zip(OUTPUTS, (h, cache.h_n, cache.c_n), strict=True):
        assert same_bits(light, results[name]), f"{name} without training"
    return results


def lengths_of(N, T):
    """In no order, with zero and T among them, where there are rows enough."""
    return [(3 * n + 1) % (T + 1) for n in range(N)]


def orders_of(N, T):
    """No lengths, and lengths; forwards and in reverse."""
    lengths = (None, lengths_of(N, T))
    return [{"lengths": some, "reverse": reverse} for some in lengths for reverse in (False, True)]


def assert_same(results, expected, what=""):
    """Fail unless results by name have the same bits."""
    assert set(results) == set(expected)
    for name, result in results.items():
        assert same_bits(result, expected[name]), f"{name} {what}"
