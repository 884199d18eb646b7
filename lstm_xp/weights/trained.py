"""What `lstm-xp train` writes: the LSTM layers of its language models and checkpoints, to be read only.

Embedding and output layer are left out: they are no part of an LSTM.
"""

import re

from ..layers import LSTM
from ..parameters import Direction
from ..training.formats import CHECKPOINT_FORMAT, MODEL_FORMAT
from . import containers, tensors

PREFIXES = {MODEL_FORMAT: "", CHECKPOINT_FORMAT: "parameter."}


def recognises(path):
    """Whether `lstm-xp train` wrote the file."""
    about = containers.metadata(path)
    return isinstance(about, dict) and about.get("format") in PREFIXES


def names(path):
    """The one LSTM of the file, which has no name."""
    return [""] if recognises(path) else []


def others(path, name=None):
    """Embedding and output layer; of a checkpoint also what the training goes on from."""
    start = _start(path)
    return [each for each in containers.entries(path) if not each.startswith(start)]


def read(path, name=None):
    """Network and parameters of the LSTM layers."""
    tensors.one_of(str(path), names(path), name, "it was not written by lstm-xp train")
    start, found = _start(path), containers.entries(path)
    layers = [each for each in found if re.fullmatch(rf"{re.escape(start)}\d+\.Wh", each)]
    if not layers or f"{start}0.Wx" not in found:
        raise containers.FileError(f"{path}: {start}0.Wx or {start}0.Wh is missing.")
    arrays = containers.read(path, [each for each in found if each.startswith(start)])
    H, _ = tensors.shape(str(path), layers[0], arrays[layers[0]], "(H, 4*H)")
    D, _ = tensors.shape(str(path), f"{start}0.Wx", arrays[f"{start}0.Wx"], "(D, 4*H)")
    network = LSTM(D, H, num_layers=len(layers))
    rules = {}
    for layer in range(network.num_layers):
        rules[f"{start}{layer}.Wx"] = ("(D, 4*H)", (H if layer else D, 4 * H))
        rules[f"{start}{layer}.Wh"] = ("(H, 4*H)", (H, 4 * H))
        rules[f"{start}{layer}.b"] = ("(4*H,)", (4 * H,))
    tensors.check(str(path), arrays, rules, f"there are {len(layers)} layers of H = {H}, the first of D = {D}")
    params = (Direction(*(arrays[f"{start}{k}.{part}"] for part in ("Wx", "Wh", "b"))) for k in range(len(layers)))
    return network, tuple(params)


def _start(path):
    """What the names of the LSTM's arrays begin with."""
    return PREFIXES[containers.metadata(path)["format"]] + "lstm"
