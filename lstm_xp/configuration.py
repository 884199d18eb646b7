"""What the configuration of a network may be."""

import math
from operator import index

import numpy as np

from .activations import activation
from .checks import PRECISIONS

RATES = ("dropout", "input_dropout", "recurrent_dropout", "zoneout_h", "zoneout_c")
SWITCHES = ("bidirectional", "reverse", "bias", "time_major", "peepholes", "coupled", "layer_norm")


def check_configuration(network):
    """Check each setting of an `LSTM`, and the combinations that have no meaning."""
    for name, least in (("input_size", 1), ("hidden_size", 1), ("num_layers", 1), ("proj_size", 0)):
        _keep(network, name, _integer(name, getattr(network, name), least))
    for name in SWITCHES:
        value = getattr(network, name)
        if not isinstance(value, bool):
            raise TypeError(f"LSTM: {name} must be True or False; got {value!r}.")
    for name in RATES:
        value = getattr(network, name)
        if not _is_number(value) or not 0 <= value < 1:
            raise ValueError(f"LSTM: {name} must lie in [0, 1); got {value!r}.")
        _keep(network, name, float(value))
    if network.clip is not None and not (_is_number(network.clip) and 0 < network.clip < math.inf):
        raise ValueError(f"LSTM: clip must be a positive number or None; got {network.clip!r}.")
    _keep(network, "clip", None if network.clip is None else float(network.clip))
    if not _is_number(network.forget_bias) or not math.isfinite(network.forget_bias):
        raise ValueError(f"LSTM: forget_bias must be a finite number; got {network.forget_bias!r}.")
    _keep(network, "forget_bias", float(network.forget_bias))
    if not isinstance(network.activations, tuple) or len(network.activations) != 3:
        raise ValueError(
            f"LSTM: activations must be a tuple of three (of the gates i, f, o; of g; of c); "
            f"got {network.activations!r}."
        )
    for given in network.activations:
        activation("LSTM", given)
    if network.bidirectional and network.reverse:
        raise ValueError("LSTM: a bidirectional network has both directions: reverse must be False.")
    if network.dropout and network.num_layers == 1:
        raise ValueError(
            "LSTM: dropout acts between layers and needs num_layers of at least 2; got 1. "
            "On the input use input_dropout, inside the recurrence recurrent_dropout."
        )
    if network.precision is not None and network.precision not in PRECISIONS:
        raise ValueError(f"LSTM: precision must be one of {', '.join(PRECISIONS)}, or None; got {network.precision!r}.")
    plain = network.plain and not network.recurrent_dropout  # asked here once, before torch.compile looks on
    if network.precision is not None and not plain:
        raise ValueError("LSTM: precision is for plain cells: variants are multiplied in the precision of their dtype.")


def _integer(name, value, least):
    try:
        found = index(value)
    except TypeError:
        found = None
    if found is None or isinstance(value, bool) or found < least:
        raise ValueError(f"LSTM: {name} must be an integer of at least {least}; got {value!r}.")
    return found


def _is_number(value):
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _keep(network, name, value):
    """A setting as a number of Python's own, which compares, prints and is saved as such, whatever it came as."""
    object.__setattr__(network, name, value)
