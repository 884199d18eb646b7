"""Networks from formats that know one cell at a time: layers and directions are how the caller puts cells together."""

from collections.abc import Mapping

from ..layers import LSTM
from . import tensors


def each(function, cells):
    """Check that there are cells, each a mapping of names."""
    if not cells:
        raise TypeError(f"{function}: give at least one cell, for each layer and direction; got none.")
    for index, cell in enumerate(cells):
        if not isinstance(cell, Mapping):
            raise TypeError(
                f"{function}: cells[{index}] must be a mapping of names to arrays; got {type(cell).__name__}."
            )
    return cells


def network_of(function, count, D, H, *, bidirectional, reverse, **settings):
    """The network of so many cells, the first of which has D and H."""
    directions = 1 + bool(bidirectional)
    if count % directions:
        raise ValueError(f"{function}: each bidirectional layer has two cells, forward and reverse; got {count} cells.")
    layers = count // directions
    return LSTM(D, H, num_layers=layers, bidirectional=bool(bidirectional), reverse=bool(reverse), **settings)


def width(network, index):
    """The features that enter the cell of params[index]."""
    return network.input_size if index < network.num_directions else network.num_directions * network.hidden_size


def joined(function, given, make_rules, network, make, places=None):
    """Check the tensors of every cell and make a `Direction` of each.

    `given` has the tensors of each cell by their names, `places` what to call each cell in a message;
    make_rules(D, H) -> name -> (letters, numbers); make(tensors, xp) -> Direction.
    """
    H, everything, rules = network.hidden_size, {}, {}
    places = places or [f"cells[{index}]." for index in range(len(given))]
    for index, (place, own) in enumerate(zip(places, given, strict=True)):
        rules |= {place + name: rule for name, rule in make_rules(width(network, index), H).items()}
        everything |= {place + name: tensor for name, tensor in own.items()}
    implied = (
        f"{places[0].rstrip('./')} has D = {network.input_size} and H = {H}, and the network {network.num_layers} "
        f"layer(s) and {network.num_directions} direction(s)"
    )
    xp = tensors.check(function, everything, rules, implied)
    tensors.no_others(function, everything, rules, implied)
    return network, tuple(make(own, xp) for own in given)
