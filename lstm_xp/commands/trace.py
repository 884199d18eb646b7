"""Draw what the gates of a trained network do, step by step, over a text or a signal.

MODEL is what lstm-xp train wrote, the directory of a run or its model.safetensors: INPUT is then a text file, or --text
has the text. Or MODEL is any other file that lstm-xp inspect knows, for example one of lstm_xp.weights.save: INPUT is
then a signal, a NumPy file .npy of shape (T, D), or (N, T, D), of which --row is read.

The picture has one layer's gates i, f, o, the candidate g and the cell state c as heat maps: time from left to right,
one line for each unit, those with the longest memory (the highest mean of f) on top. Where a layer has more units than
--units, those shown are spread evenly over this order; or they are those of --unit, in the order given there.

Below, for each gate, every unit of every layer is a point: in what share of the steps it is open (right-saturated,
above 0.9), and in what share shut (left-saturated, below 0.1; for g: below -0.9). On the diagonal a gate is a switch,
near the origin it is analog. The means of these shares over the units of each layer are printed as a table.

With --gradients, two more maps show how far back a language model looks for the last byte that is drawn: the gradients
of that byte's loss with respect to hidden and cell state, at each step before it, as logarithms to base 10.

However long the input is, only its first --length steps are read (bytes of a text): all of them count for the shares,
--show of them are drawn, from --start on. What lies before is read, too, so that the state is what it would be there.

examples:
  lstm-xp trace runs/lstm book.txt --out gates.png
  lstm-xp trace runs/lstm --text "def f(x): return x" --layer 0 --out gates.svg
  lstm-xp trace runs/lstm book.txt --start 5000 --unit 7,42 --out gates.png
  lstm-xp trace runs/lstm book.txt --gradients --show 60 --out gradients.png
  lstm-xp trace network.safetensors signal.npy --direction reverse --units 16 --out gates.pdf
"""

import os
import warnings
from dataclasses import replace
from pathlib import Path

from lstm_xp import weights
from lstm_xp.files import write_atomically
from lstm_xp.training.errors import UserError

from . import values
from .extras import require
from .inspect import opened

SUFFIXES = (".png", ".svg", ".pdf")
LENGTH, SHOWN, UNITS = 2000, 120, 32
DIRECTIONS = ("forward", "reverse")


def add_arguments(parser):
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a trained model, or the directory of the run that wrote it")
    parser.add_argument("input", metavar="INPUT", nargs="?", help="a text file, or a signal as .npy; see above")
    parser.add_argument("--text", metavar="TEXT", help="the text itself, in place of INPUT")
    parser.add_argument("--out", required=True, metavar="FILE", help="the picture: .png, .svg or .pdf")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    parser.add_argument(
        "--layer", type=values.seed, metavar="L", help="which layer to draw, from 0 (default: the last)"
    )
    parser.add_argument("--direction", choices=DIRECTIONS, help="which direction (default: the first that it has)")
    parser.add_argument(
        "--gradients", action="store_true", help="also draw the gradients of the loss of the last byte drawn"
    )
    parser.add_argument("--units", type=values.count, default=UNITS, metavar="U",
                        help="how many units to draw (default: %(default)s)")  # fmt: skip
    parser.add_argument("--unit", type=values.indices, metavar="N[,N...]",
                        help="which units to draw, from 0 (default: chosen by --units)")  # fmt: skip
    parser.add_argument("--start", type=values.seed, default=0, metavar="STEP",
                        help="the first step to draw, from 0 (default: 0)")  # fmt: skip
    parser.add_argument("--show", type=values.count, default=SHOWN, metavar="STEPS",
                        help="how many steps to draw (default: %(default)s)")  # fmt: skip
    parser.add_argument("--length", type=values.count, metavar="STEPS",
                        help=f"how many steps to read, bytes of a text (default: {LENGTH}, or up to the last one drawn "
                        "where that lies behind)")  # fmt: skip
    parser.add_argument("--row", type=values.seed, default=0, metavar="N",
                        help="which sequence of a signal (N, T, D), from 0 (default: 0)")  # fmt: skip
    parser.add_argument(
        "--name", metavar="LAYER", help="which LSTM of MODEL, where it has several: see lstm-xp inspect"
    )


def run(args):
    """Run the command; the exit status."""
    out = _destination(args)
    require("matplotlib", "threadpoolctl")
    from lstm_xp import saturation, traces
    from lstm_xp.training.devices import blas_threads

    from .gate_plot import draw

    if args.length is None:
        args.length = max(LENGTH, args.start + args.show)
    network, params, x, text = _opened(args)
    place = _place(args, network)
    _check_shown(args, network, x.shape[1])
    gradients = {"gradients": _gradients(args, text)[place]} if args.gradients else {}
    with blas_threads(1):
        _, _, cache = network.forward(params, x)
    found = traces(cache)
    shares = [saturation(trace) for trace in found]
    names = [_name(network, index) for index in range(len(found))]
    title = f"{Path(args.model).absolute().name}, {names[place]}"
    steps = range(args.start, min(args.start + args.show, x.shape[1]))
    picture = draw(
        out.suffix.lower()[1:], title, found[place], text, place, names, shares, args.unit or args.units, steps,
        **gradients,
    )  # fmt: skip
    write_atomically(out, picture)
    print(table(names, shares, x.shape[1]))
    print(f"\nwritten: {out}")
    return 0


def table(names, shares, steps):
    """Mean saturation of each layer's gates, as text."""
    width = max(map(len, names))
    lines = [
        f"saturation over {steps} step{'s' * (steps > 1)}, mean over units: % of steps shut (below 0.1; g: below -0.9) "
        "/ open (above 0.9)",
        " " * width + "".join(f"{gate:>13}" for gate in shares[0]._fields),
    ]
    for name, gates in zip(names, shares, strict=True):
        cells = (f"{100 * float(each.left.mean()):.1f} / {100 * float(each.right.mean()):4.1f}" for each in gates)
        lines.append(f"{name:<{width}}" + "".join(f"{cell:>13}" for cell in cells))
    return "\n".join(lines)


def _destination(args):
    """Where the picture goes; checked before any work."""
    out = Path(args.out)
    if out.suffix.lower() not in SUFFIXES:
        raise UserError(f"--out {out}: the suffix must be one of {', '.join(SUFFIXES)}; got {out.suffix or 'none'}")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no directory {out.parent}: make it first")
    if out.is_dir():
        raise UserError(f"--out {out} is a directory: name a file in it")
    if out.exists():
        if args.input is not None and Path(args.input).exists() and out.samefile(args.input):
            raise UserError(f"--out {out} is INPUT itself: choose another name")
        if not args.overwrite:
            raise UserError(f"{out} exists: choose another name, or give --overwrite")
    return out


def _opened(args):
    """Network, parameters, what goes into it (1, T, D), and the bytes of the text (None for a signal)."""
    path = _file(args)
    if not path.is_file():
        raise UserError(f"{path} is not a file: name a model, or the directory of a run")
    if path.suffix.lower() == ".safetensors":
        require("safetensors")
    if args.input is None and args.text is None:
        raise UserError("give INPUT, a text file or a signal as .npy, or --text")
    if args.input is not None and args.text is not None:
        raise UserError("give INPUT or --text, not both")
    with opened():
        byte_model = weights.format_of(path) == "lstm-xp-train"
        network, params = weights.read(path, args.name)
    if byte_model:
        text = _text(args)
        return network, params, _embedded(path, text), text
    network, params = replace(network, time_major=False), _full_precision(params)
    return network, params, _signal(path, args, network, params), None


def _file(args):
    """The model's file, also where MODEL is the directory of a run."""
    from lstm_xp.training.runs import MODEL

    path = Path(args.model)
    if path.is_dir():
        if not (path / MODEL).exists():
            raise UserError(f"{path} has no {MODEL}: let lstm-xp train end, or go on with --resume --out {path}")
        path /= MODEL
    return path


def _text(args):
    """The bytes to read."""
    if args.text is not None:
        text = os.fsencode(args.text)[: args.length]
        if not text:
            raise UserError("--text is empty: give at least one character")
        return text
    path = _input(args)
    if path.suffix.lower() == ".npy":
        raise UserError(f"{path} is a signal, {args.model} is a language model: give it a text file, or --text")
    with open(path, "rb") as file:
        # Python takes memory for as many bytes as it is told; the size of some files is not known, and said to be 0.
        text = file.read(min(args.length, max(LENGTH, path.stat().st_size)))
    if not text:
        raise UserError(f"{path} is empty: name a file with text in it")
    return text


def _embedded(path, text):
    """The text as the LSTM of a language model sees it."""
    import numpy as np

    from lstm_xp.training.checkpoints import load_model

    parameters, _ = load_model(path)
    return parameters["embedding"][np.frombuffer(text, np.uint8)][None, ...]


def _gradients(args, text):
    """The gradients in each layer of the loss of the last byte that is drawn, which the step before it predicts."""
    import numpy as np

    from lstm_xp import gradient_traces
    from lstm_xp.training import model
    from lstm_xp.training.checkpoints import load_model
    from lstm_xp.training.devices import blas_threads
    from lstm_xp.training.losses import cross_entropy_backward, cross_entropy_forward

    if text is None:
        raise UserError(f"--gradients: {args.model} is no language model, so it has no loss that they could be of")
    last = min(args.start + args.show, len(text)) - 1
    if last < 1:
        raise UserError("--gradients: the first byte alone is drawn, and nothing predicts it: draw two at least")
    parameters, _ = load_model(_file(args))
    tokens = np.frombuffer(text, np.uint8)[None, : last + 1].astype(np.int64)
    with blas_threads(1):
        logits, _, cache = model.forward(parameters, tokens, None)
        _, loss = cross_entropy_forward(logits[:, last - 1 : last], tokens[:, last : last + 1])
        dlogits = np.zeros_like(logits)
        dlogits[:, last - 1 : last] = cross_entropy_backward(loss)
        return gradient_traces(model.output_backward(dlogits, cache), cache.layers)


def _signal(model, args, network, params):
    """The steps to read of a signal (1, T, D), of the dtype of the parameters."""
    import numpy as np

    if args.text is not None:
        raise UserError(f"{model} is no language model, so it reads no text: give a signal as .npy")
    path, D = _input(args), network.input_size
    if path.suffix.lower() != ".npy":
        raise UserError(
            f"{path}: {model} is no language model, it reads a signal: a NumPy file .npy, (T, D) or (N, T, D)"
        )
    array = _mapped(path)
    if array.ndim not in (2, 3) or array.shape[-1] != D or 0 in array.shape:
        raise UserError(f"{path} must have shape (T, D) or (N, T, D) with D = {D} and no side of 0; got {array.shape}")
    if array.dtype.kind not in "fiub":
        raise UserError(f"{path} must hold real numbers; got {array.dtype}")
    rows = array[None, ...] if array.ndim == 2 else array
    if args.row >= len(rows):
        raise UserError(f"--row {args.row}: {path} has {len(rows)} rows, counted from 0")
    with np.errstate(over="ignore"):
        x = rows[args.row, : args.length].astype(params[0].Wx.dtype)[None, ...]
    if not np.all(np.isfinite(x)):
        step = int(np.argwhere(~np.isfinite(x))[0][1])
        raise UserError(f"{path} holds a value that is not finite in {x.dtype}, at step {step}")
    return x


def _mapped(path):
    """The array of a .npy file: only what is read of it takes memory, whatever the header claims."""
    import numpy as np

    try:
        with warnings.catch_warnings(action="ignore"):
            return np.lib.format.open_memmap(path, mode="r")
    except (OSError, MemoryError):
        raise
    except Exception:  # a damaged header raises errors of many kinds
        raise UserError(f"{path} is damaged, or no NumPy file of numbers: write it with numpy.save") from None


def _input(args):
    path = Path(args.input)
    if not path.exists():
        raise UserError(f"{path} does not exist: check the name of the input")
    if not path.is_file():
        raise UserError(f"{path} is not a regular file: save the input in a file first")
    return path


def _full_precision(params):
    """Half types as float32: NumPy is slow with them, and a picture shows no difference."""
    import numpy as np

    def full(array):
        return array if array is None or array.dtype.name in ("float32", "float64") else array.astype(np.float32)

    return tuple(type(p)(*map(full, p)) for p in params)


def _place(args, network):
    """The index of the layer and direction to draw."""
    layer = network.num_layers - 1 if args.layer is None else args.layer
    if layer >= network.num_layers:
        raise UserError(f"--layer {layer}: {args.model} has {network.num_layers} layers, counted from 0")
    has = DIRECTIONS if network.bidirectional else (DIRECTIONS[network.reverse],)
    direction = args.direction or has[0]
    if direction not in has:
        raise UserError(f"--direction {direction}: {args.model} has only {has[0]}")
    return layer * network.num_directions + has.index(direction)


def _check_shown(args, network, steps):
    """Check that the steps and units to draw are there."""
    if args.start >= steps:
        hint = ": give a larger --length" if args.length == steps else ""
        raise UserError(f"--start {args.start} lies behind the end: {steps} steps are read, counted from 0{hint}")
    for unit in args.unit or ():
        if unit >= network.hidden_size:
            raise UserError(f"--unit {unit}: {args.model} has {network.hidden_size} units in a layer, counted from 0")


def _name(network, index):
    layer, second = divmod(index, network.num_directions)
    return f"layer {layer} {DIRECTIONS[network.reverse or second]}"
