"""Show the LSTMs in a file: layers, directions, shapes, order of gates, number of parameters, configuration.

What else the file holds is named at the end.

Formats are found by the suffix, and by what is in the file; see lstm-xp convert.

example:
  lstm-xp inspect model.onnx
"""

import contextlib
import math
from dataclasses import fields
from pathlib import Path

from lstm_xp import LSTM, checks, parameters, weights
from lstm_xp.training.errors import UserError
from lstm_xp.weights.gates import ORDERS, OURS


def add_arguments(parser):
    """Declare the command's arguments."""
    parser.add_argument("file", metavar="FILE", help="a file of weights")
    parser.add_argument("--name", metavar="LAYER", help="show this LSTM only (default: all)")


def run(args):
    """Run the command; the exit status."""
    path = Path(args.file)
    with opened():
        name = weights.format_of(path)
        row, found = weights.FORMATS[name], weights.names(path, format=name)
        if args.name is None and not found:
            raise UserError(f"{path}: no LSTM found (format {name}: {row.about})")
        wanted = found if args.name is None else [args.name]
        lstms = [(each, *weights.read(path, each, format=name)) for each in wanted]
        others = weights.others(path, format=name)
    print(f"file           {path}")
    print(f"format         {name} ({row.about})")
    print(f"order of gates {', '.join(ORDERS.get(name, OURS))} in the file; below, as here: {', '.join(OURS)}")
    for each, network, params in lstms:
        print(f"\n{each or 'LSTM'}: {summary(network, params)}")
        print(f"  {configuration(network)}")
        for index, p in enumerate(params):
            shapes = "  ".join(f"{part} {tuple(v.shape)}" for part, v in p._asdict().items() if v is not None)
            print(f"  {parameters.place(network, index)}: {shapes}")
    if others:
        print(f"\nother tensors: {listed(others)}")
    return 0


def listed(names, most=8):
    """Names side by side, not all of them where there are many. They must not write into a terminal what they like."""
    shown = ", ".join("".join(char if char.isprintable() else "?" for char in name) for name in names[:most])
    return shown if len(names) <= most else f"{shown}, ... ({len(names)} in all)"


def summary(network, params):
    """A network in a line: layers, directions, number and dtype of parameters."""
    arrays = [v for p in params for v in p if v is not None]
    count = sum(math.prod(v.shape) for v in arrays)
    ways = "two directions" if network.bidirectional else "reverse" if network.reverse else "forward"
    layers = f"{network.num_layers} layer{'s' * (network.num_layers > 1)}"
    return f"{layers}, {ways}, {count:,} parameters of {checks.dtype_name(arrays[0].dtype)}"


def configuration(network):
    """The sizes of a network, and its other settings where they are not the default."""
    shown = [
        f"{field.name}={getattr(network, field.name)!r}"
        for field in fields(LSTM)
        if field.name in ("input_size", "hidden_size") or getattr(network, field.name) != field.default
    ]
    return f"LSTM({', '.join(shown)})"


@contextlib.contextmanager
def opened():
    """What is wrong with a file, or missing for it, as an error that the user can put right."""
    try:
        yield
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(str(error)) from None
