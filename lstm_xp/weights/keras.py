"""Keras: the weights of LSTM and Bidirectional(LSTM) layers, and files of models.

    kernel             (D, 4*H)   columns in the blocks i, f, c, o
    recurrent_kernel   (H, 4*H)   likewise
    bias               (4*H,)     one bias, unit_forget_bias included; none with use_bias=False

A Bidirectional layer has the three of its forward layer, then the three of its backward layer. Traps: go_backwards
leaves the outputs in the order of processing; hard_sigmoid has another slope since Keras 3; at masked steps an LSTM
repeats its output, unless zero_output_for_mask. No bias is summed: gradients may be converted by these functions, too.

References: https://keras.io/api/layers/recurrent_layers/lstm/ and .../bidirectional/
"""

import io
from pathlib import Path

from ..files import write_atomically
from ..libraries import to_numpy
from ..parameters import Direction
from . import cells, tensors
from .containers import FileError
from .gates import ORDERS, from_order, to_order
from .keras_file import File
from .packages import package

ORDER = ORDERS["keras"]
NAMES = ("kernel", "recurrent_kernel", "bias")
# How many arrays a layer has -> directions, and arrays of each.
COUNTS = {2: (1, 2), 3: (1, 3), 4: (2, 2), 6: (2, 3)}
# What a layer is told beside its sizes -> what that is here; the functions are named alike, but for these.
ACTIVATIONS = {
    "sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu", "linear": ("Affine", 1.0, 0.0), "elu": "Elu",
    "softsign": "Softsign", "softplus": "Softplus",
}  # fmt: skip
HARD_SIGMOID = {2: ("HardSigmoid", 0.2, 0.5), 3: ("HardSigmoid", 1 / 6, 0.5)}


def from_keras(*layers, reverse=False, **settings):
    """A network and its parameters from the weights of Keras layers.

    Parameters
    ----------
    *layers : list of arrays
        For each layer what ``layer.get_weights()`` gives: kernel, recurrent_kernel, bias (none with use_bias=False);
        for Bidirectional those of the forward layer, then those of the backward layer. Arrays of any one library.
    reverse : bool
        The layers have go_backwards=True. Outputs here are in the order of x all the same: Keras's are reversed.
    **settings
        Of `LSTM`, where the layers have others than Keras's defaults: activations=(recurrent_activation, activation,
        activation), input_dropout, recurrent_dropout, time_major.

    Returns
    -------
    network : LSTM
    params : tuple of Direction
        Arrays of the same library and dtype; they may share memory with those given.

    Raises
    ------
    ValueError
        If arrays are missing, misshapen, or too many.
    TypeError
        If they are no arrays of one library and floating dtype.

    Notes
    -----
    A layer with return_sequences=False returns ``state.h`` of the last layer, both directions side by side.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_xp.weights import from_keras
    >>> network, params = from_keras([np.zeros((3, 16)), np.zeros((4, 16)), np.zeros(16)])
    >>> network.input_size, network.hidden_size, params[0].Wh.shape
    (3, 4, (4, 16))
    """
    function, given, places = "from_keras", [], []
    if not layers:
        raise TypeError(f"{function}: give the weights of at least one layer; got none.")
    counts = [len(layer) if isinstance(layer, list | tuple) else -1 for layer in layers]
    for index, count in enumerate(counts):
        if count not in COUNTS or count != counts[0]:
            held = f"{count} arrays" if count >= 0 else type(layers[index]).__name__
            raise ValueError(
                f"{function}: layers[{index}] must be a list of {'2, 3, 4 or 6' if index == 0 else counts[0]} arrays: "
                f"kernel, recurrent_kernel, bias, and again for the backward layer; got {held}."
            )
        directions, each = COUNTS[count]
        for k in range(directions):
            given.append(dict(zip(NAMES, layers[index][each * k : each * (k + 1)], strict=False)))
            places.append(f"layers[{index}]." + ("backward_" if k else ""))
    return _joined(function, given, places, directions == 2, reverse, settings)


def to_keras(network, params):
    """The weights of Keras layers: the inverse of `from_keras`.

    Parameters
    ----------
    network : LSTM
        Of plain cells, with any activations: they are not in the weights.
    params : tuple of Direction
        Arrays of any one library.

    Returns
    -------
    list of list of array
        For each layer what ``layer.set_weights()`` takes (arrays on the host, of NumPy, then).

    Raises
    ------
    ValueError
        If the network has what the layers lack, or the parameters are not its own.

    Examples
    --------
    >>> from lstm_xp import LSTM
    >>> from lstm_xp.weights import to_keras
    >>> network = LSTM(3, 4, bidirectional=True)
    >>> (weights,) = to_keras(network, network.init())
    >>> [array.shape for array in weights]
    [(3, 16), (4, 16), (16,), (3, 16), (4, 16), (16,)]
    """
    may = ("num_layers", "bidirectional", "reverse", "activations")
    xp = tensors.outgoing("to_keras", network, params, "Keras's LSTM", may)
    dirs, layers = network.num_directions, []
    for layer in range(network.num_layers):
        held = (v for p in params[dirs * layer : dirs * (layer + 1)] for v in (p.Wx, p.Wh, p.b))
        layers.append([to_order(v, ORDER, -1, xp) for v in held if v is not None])
    return layers


def names(path):
    """The LSTM and Bidirectional layers in a file by name; in a file of weights alone by class and number: lstm_1."""
    with File(path) as file:
        return list(file.layers)


def others(path, name=None):
    """The arrays in a file that are not the weights of these layers (as in `read`), of any for None."""
    with File(path) as file:
        chosen = file.layers if name is None else _chosen(path, file, name)
        return file.others([file.layers[each] for each in chosen])


def read(path, name=None):
    """Network and parameters of a layer in a file: .keras, .weights.h5, or the .h5 of Keras 2.

    Parameters
    ----------
    path : str or path
        Its suffix does not matter.
    name : str or None
        One of `names(path)`, or several joined with "+", the layers of one network; None for the only one.

    Returns
    -------
    network : LSTM
        As the configuration in the file says. A file of weights alone has none: then Keras's defaults are assumed.
    params : tuple of Direction
        NumPy arrays.

    Raises
    ------
    ValueError
        If the file is damaged, there is no such layer, or the layer computes what a network here does not.
    ImportError
        If the package h5py is not installed.
    """
    with File(path) as file:
        chosen = _chosen(path, file, name)
        layers = [file.layers[each] for each in chosen]
        settings = [
            _settings(f"{path}: {each}", layer, file.major, last=each == chosen[-1])
            for each, layer in zip(chosen, layers, strict=True)
        ]
        for each, own in zip(chosen, settings, strict=True):
            if own != settings[0] or layers[0].bidirectional != file.layers[each].bidirectional:
                raise FileError(f"{path}: {chosen[0]} and {each} differ in their settings: read them one by one.")
        groups = [group for layer in layers for group in layer.groups]
        given = [file.weights(group, NAMES) for group in groups]
    for group, config, own in zip(groups, (c for layer in layers for c in layer.configs), given, strict=True):
        if bool(config.get("use_bias", "bias" in own)) != ("bias" in own):
            raise FileError(f"{path}: {group} has {'a' if 'bias' in own else 'no'} bias, against its configuration.")
    try:
        own = dict(settings[0])
        return _joined(str(path), given, [f"{group}/" for group in groups], layers[0].bidirectional,
                       own.pop("reverse"), own)  # fmt: skip
    except TypeError as error:
        raise FileError(str(error)) from None


def write(path, network, params):
    """Write a file of weights alone, .weights.h5, for ``model.load_weights``.

    The model is one of `network.num_layers` LSTM layers, or Bidirectional ones, whatever other layers without weights
    stand between them; in a larger one, the layers' own ``set_weights`` takes what `to_keras` gives.

    Parameters
    ----------
    path : str or path
        Ends in .weights.h5. Replaced if there is one, whole or not at all.
    network : LSTM
        Of plain cells, in the forward direction or both: the file does not say what activations and direction are.
    params : tuple of Direction
        Arrays of any one library. bfloat16 is written as float32.

    Raises
    ------
    ValueError
        If the network has what such a file does not tell, the parameters are not its own, or the suffix is another.
    ImportError
        If the package h5py is not installed.
    """
    if not str(path).lower().endswith(".weights.h5"):
        raise ValueError(f"{path}: of Keras's files, those of weights alone can be written: *.weights.h5.")
    tensors.outgoing(str(path), network, params, "a file of weights alone", ("num_layers", "bidirectional"))
    kind = "bidirectional" if network.bidirectional else "lstm"
    ways = ("forward_layer/", "backward_layer/") if network.bidirectional else ("",)
    buffer = io.BytesIO()
    with package("h5py").File(buffer, "w") as file:
        for layer, arrays in enumerate(to_keras(network, params)):
            place, each = f"layers/{kind}" + (f"_{layer}" if layer else ""), len(arrays) // len(ways)
            for number, array in enumerate(arrays):
                file[f"{place}/{ways[number // each]}cell/vars/{number % each}"] = to_numpy(array)
    write_atomically(Path(path), buffer.getvalue())


def _chosen(path, file, name):
    """The names of the layers asked for."""
    several = (name or "").split("+")
    if name not in file.layers and len(several) > 1:
        return [tensors.one_of(str(path), list(file.layers), each, "") for each in several]
    return [tensors.one_of(str(path), list(file.layers), name, "it has no layer LSTM or Bidirectional", joined=True)]


def _joined(function, given, places, bidirectional, reverse, settings):
    """Network and parameters of cells in our order."""
    sizes = {}
    for name, letters in (("kernel", "(D, 4*H)"), ("recurrent_kernel", "(H, 4*H)")):
        if name not in given[0]:
            raise ValueError(f"{function}: {places[0]}{name} is missing; it must have shape {letters}.")
        sizes[name] = tensors.shape(function, places[0] + name, given[0][name], letters)
    (D, _), (H, columns) = sizes.values()
    if columns in (H, 3 * H):
        kind = "GRU" if columns == 3 * H else "SimpleRNN"
        raise ValueError(f"{function}: {places[0]}recurrent_kernel {(H, columns)} belongs to a {kind}, not to an LSTM.")
    bias = "bias" in given[0]
    network = cells.network_of(
        function, len(given), D, H, bidirectional=bidirectional, reverse=reverse, bias=bias, **settings
    )

    def rules(D, H):
        shapes = {"kernel": ("(D, 4*H)", (D, 4 * H)), "recurrent_kernel": ("(H, 4*H)", (H, 4 * H))}
        return shapes | ({"bias": ("(4*H,)", (4 * H,))} if bias else {})

    def direction(own, xp):
        return Direction(*(from_order(own[name], ORDER, -1, xp) for name in NAMES if name in own))

    return cells.joined(function, given, rules, network, direction, places)


def _settings(where, layer, major, last):
    """The settings of `LSTM` that a layer's configuration tells of."""
    if layer.missing:
        raise FileError(f"{where}: {layer.missing}")
    if layer.merge_mode != "concat":
        raise FileError(
            f"{where}: merge_mode is {layer.merge_mode!r}; the directions here are side by side ('concat')."
        )
    found = []
    for config, backwards in zip(layer.configs, (False, True), strict=False):
        found.append(_cell_settings(where, config, major))
        goes_back, sequences = bool(config.get("go_backwards")), bool(config.get("return_sequences"))
        if layer.bidirectional and goes_back != backwards:
            raise FileError(f"{where}: go_backwards is {goes_back} in its {('forward', 'backward')[backwards]} layer.")
        if not last and not sequences:
            raise FileError(f"{where}: return_sequences is False, so no layer can follow.")
    if found[0] != found[-1]:
        raise FileError(f"{where}: its forward and backward layers differ: {found[0]} and {found[-1]}.")
    reverse = goes_back and not layer.bidirectional
    if reverse and sequences:
        raise FileError(
            f"{where}: go_backwards with return_sequences returns its outputs in reversed order, a network here in the "
            "order of x. from_keras(weights, reverse=True) gives that one."
        )
    return found[0] | {"reverse": reverse}


def _cell_settings(where, config, major):
    kinds = []
    for key, default in (("recurrent_activation", "sigmoid"), ("activation", "tanh")):
        given = config.get(key, default)
        kind = HARD_SIGMOID.get(major) if given == "hard_sigmoid" else None
        kind = kind or (ACTIVATIONS.get(given) if isinstance(given, str) else None)
        if kind is None:
            known = ", ".join([*ACTIVATIONS, "hard_sigmoid"])
            raise FileError(f"{where}: {key} must be one of {known}; it is {given!r}.")
        kinds.append(kind)
    rates = {}
    for here, there in (("input_dropout", "dropout"), ("recurrent_dropout", "recurrent_dropout")):
        rate = config.get(there, 0.0)
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
            raise FileError(f"{where}: {there} must lie in [0, 1); it is {rate!r}.")
        rates[here] = float(rate)
    return {"activations": (kinds[0], kinds[1], kinds[1]), "time_major": config.get("time_major") is True, **rates}
