"""What every converter asks of tensors and networks; their errors are worded here."""

from collections.abc import Mapping
from dataclasses import fields

from .. import checks
from ..parameters import check_parameters
from ..variant_cells import PLAIN

# Settings that change what a network computes from given parameters, beside its sizes.
SETTINGS = (
    "num_layers", "bidirectional", "reverse", "proj_size", "peepholes", "coupled", "clip", "layer_norm", "activations",
    "zoneout_h", "zoneout_c",
)  # fmt: skip


def mapping(function, tensors):
    """Check that tensors come by name; return them as a dict."""
    if not isinstance(tensors, Mapping):
        raise TypeError(
            f"{function}: the tensors must be a mapping of names to arrays, such as a state dict; "
            f"got {type(tensors).__name__}."
        )
    return dict(tensors)


def shape(function, name, array, letters):
    """The shape of a tensor that has as many axes as letters, for example "(4*H, D)", none of them empty."""
    found = tuple(getattr(array, "shape", ()))
    if len(found) != len(letters.strip("(),").split(",")) or 0 in found:
        raise ValueError(f"{function}: {name} must have shape {letters}, no size 0; got {found}.")
    return found


def quarter(function, name, rows, length):
    """H from an axis of 4*H."""
    if length % 4:
        hint = " Three blocks would be a GRU." if length % 3 == 0 else ""
        raise ValueError(
            f"{function}: {name} must have 4*H {rows}, H for each of four gates; got {length}, no multiple of 4.{hint}"
        )
    return length // 4


def check(function, tensors, rules, implied):
    """Check that all tensors of the rules are there: name -> (shape in letters, in numbers); `implied` is their reason.

    Returns the namespace that they share.
    """
    for name, (letters, numbers) in rules.items():
        if name not in tensors:
            raise ValueError(f"{function}: {name} is missing; it must have shape {letters} = {numbers}: {implied}.")
        found = tuple(getattr(tensors[name], "shape", ()))
        if found != numbers:
            hint = " It is the transpose." if found == numbers[::-1] != numbers else ""
            raise ValueError(f"{function}: {name} must have shape {letters} = {numbers}; got {found}: {implied}.{hint}")
    xp, _ = checks.one_library(function, {name: tensors[name] for name in rules})
    return xp


def no_others(function, names, rules, implied):
    """Check that no other tensors are among these names."""
    others = sorted(set(names) - set(rules))
    if others:
        more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
        raise ValueError(f"{function}: {others[0]}{more} is no tensor of this LSTM: {implied}.")


def one_of(function, found, name, what, joined=False):
    """The LSTM asked for among those found; the only one for None. `joined`: a name may be several, with "+"."""
    listed = ", ".join(repr(each) for each in found)
    if not found:
        raise ValueError(f"{function}: no LSTM found: {what}.")
    if name is None:
        if len(found) > 1:
            hint = f", or join the layers of one network, such as '{found[0]}+{found[1]}'" * joined
            raise ValueError(f"{function}: {len(found)} LSTMs found, choose one by name: {listed}{hint}.")
        return found[0]
    if name not in found:
        raise ValueError(f"{function}: no LSTM is called {name!r}; found: {listed}.")
    return name


def outgoing(function, network, params, holder, may):
    """Check that params are the network's, and that `holder` can have them: it `may` deviate from the plain network.

    Returns the namespace of the parameters.
    """
    defaults = {field.name: field.default for field in fields(network)}
    for name in SETTINGS:
        value = getattr(network, name)
        plain = network.cell.activations == PLAIN.activations if name == "activations" else (
            value == defaults[name]
        )  # fmt: skip
        if not plain and name not in may:
            raise ValueError(f"{function}: {holder} cannot hold a network with {name}={value!r}.")
    xp, _ = checks.one_library(function, check_parameters(function, network, params))
    return xp
