"""The random masks of a network, as arrays: drawn from a generator, or handed in, and always handed out again.

A dropout mask holds 0 where a value is dropped and 1 / (1 - rate) elsewhere (inverted dropout); a zoneout mask holds 1
where the old state is kept and 0 elsewhere. They are drawn on the host, so a generator's seed means the same masks in
every array library and on every device.
"""

from typing import NamedTuple

import numpy as np

from . import checks
from .checks import Array
from .libraries import Library
from .parameters import place
from .timeline import Timeline
from .variant_cells import CellMasks


class Masks(NamedTuple):
    """The masks of one run, each kind a tuple of arrays, or None where the network has no such dropout.

    `inputs` has one mask (N, D) for each layer, the same at every step; `between` one (N, T, D) for each layer but the
    first; `recurrent` (N, R), `zoneout_h` (N, T, R) and `zoneout_c` (N, T, H) one for each layer and direction, in
    the order of the parameters. Time is always the second axis.
    """

    inputs: tuple[Array, ...] | None = None
    between: tuple[Array, ...] | None = None
    recurrent: tuple[Array, ...] | None = None
    zoneout_h: tuple[Array, ...] | None = None
    zoneout_c: tuple[Array, ...] | None = None

    def of(self, index):
        """The masks that one direction of one layer uses inside its recurrence."""
        return CellMasks(*(None if kind is None else kind[index] for kind in self[2:]))

    def on_input(self, layer):
        """What the input of a layer (N, T, D) is multiplied with."""
        between = [] if self.between is None or layer == 0 else [self.between[layer - 1]]
        return between if self.inputs is None else [*between, self.inputs[layer][:, None, :]]


def rates(network):
    """The rate of each kind of mask."""
    return Masks(
        inputs=network.input_dropout,
        between=network.dropout,
        recurrent=network.recurrent_dropout,
        zoneout_h=network.zoneout_h,
        zoneout_c=network.zoneout_c,
    )


def shapes(network, N, T):
    """The shapes of each kind of mask: in letters, and of each array in numbers."""
    H, R, K = network.hidden_size, network.output_size, network.num_layers * network.num_directions
    above = network.num_layers - 1
    return Masks(
        inputs=("(N, D)", [(N, network.input_size)] + [(N, network.num_directions * R)] * above),
        between=("(N, T, D)", [(N, T, network.num_directions * R)] * above),
        recurrent=("(N, R)", [(N, R)] * K),
        zoneout_h=("(N, T, R)", [(N, T, R)] * K),
        zoneout_c=("(N, T, H)", [(N, T, H)] * K),
    )


def draw(network, rng, x, N, T, xp):
    """Masks from a NumPy generator, as arrays of the library, dtype and device of x."""
    library = Library("rng", xp, checks.device(x))

    def drawn(kind, rate, shape):
        below = rng.random(shape, dtype=np.float32) < rate
        values = below.astype(np.float64) if kind.startswith("zoneout") else ~below / (1 - rate)
        return library.asarray(values, checks.dtype_name(x.dtype))

    kinds = zip(Masks._fields, rates(network), shapes(network, N, T), strict=True)
    return Masks(*(tuple(drawn(kind, rate, shape) for shape in sizes) if rate else None
                   for kind, rate, (_, sizes) in kinds))  # fmt: skip


def settle(function, network, masks, rng, x, N, T, xp):
    """The masks of a run: those given, those drawn, or none; checked."""
    if masks is not None and rng is not None:
        raise ValueError(f"{function}: give masks or rng, not both: rng draws new masks.")
    if rng is not None:
        if not isinstance(rng, np.random.Generator):
            raise TypeError(
                f"{function}: rng must be a numpy.random.Generator, for example numpy.random.default_rng(0); "
                f"got {type(rng).__name__}."
            )
        return draw(network, rng, x, N, T, xp)
    if masks is None:
        return Masks()
    if not isinstance(masks, Masks):
        raise TypeError(f"{function}: masks must be a Masks; got {type(masks).__name__}.")
    arrays = {"x": x}
    kinds = zip(Masks._fields, masks, rates(network), shapes(network, N, T), strict=True)
    for kind, given, rate, (letters, sizes) in kinds:
        if not rate:
            if given is not None:
                raise ValueError(f"{function}: masks.{kind} must be None: the network has no such dropout.")
            continue
        if not isinstance(given, tuple | list) or len(given) != len(sizes):
            found = f"{len(given)} of them" if isinstance(given, tuple | list) else "None" if given is None else given
            raise ValueError(
                f"{function}: masks.{kind} must be {len(sizes)} arrays, for the network has a rate of {rate}; "
                f"got {found if isinstance(found, str) else type(found).__name__}."
            )
        for index, (mask, size) in enumerate(zip(given, sizes, strict=True)):
            if tuple(getattr(mask, "shape", ())) != size:
                where = "" if kind in ("inputs", "between") else f" for {place(network, index)}"
                raise ValueError(
                    f"{function}: masks.{kind}[{index}] must have shape {letters} = {size}{where}; "
                    f"got {tuple(getattr(mask, 'shape', ()))}."
                )
            arrays[f"masks.{kind}[{index}]"] = mask
    checks.one_library(function, arrays)
    return masks


def apply(masks, x, lengths, xp):
    """x (N, T, D) times masks; what lies behind the lengths is zeroed first: an inf there would warn."""
    if masks and lengths is not None:
        timeline = Timeline.of(x, lengths, False, xp)
        x = timeline.restore(timeline.steps(x))
    for mask in masks:
        x = times(x, mask, xp)
    return x


def times(v, mask, xp):
    """v * mask in their dtype: of bfloat16, CuPy makes float32."""
    return xp.astype(v * mask, v.dtype, copy=False)
