"""ONNX: LSTM nodes as arrays and attributes, and files of models that have such nodes.

The layout is said in `onnx_layout.py`. A node is a layer; nodes that feed each other through nothing but Transpose,
Reshape, Squeeze and Identity, and have the same settings, are read as the layers of one network, as PyTorch exports
them. Others are joined by name. Initial states and lengths are no parameters: they are given to `LSTM.forward`.

Reference: ONNX, operator LSTM, opset 22, https://onnx.ai/onnx/operators/onnx__LSTM.html
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from ..files import write_atomically
from ..layers import LSTM
from ..libraries import to_numpy
from . import tensors
from .containers import FileError
from .onnx_graph import INPUTS, LIMIT, Graph
from .onnx_layout import DIRECTIONS, arrays_of, attributes_of, check_attributes, direction_of, functions_of, rules
from .packages import package

OPSET, IR = 17, 8


def from_onnx(
    arrays,
    *,
    activation_alpha=None,
    activation_beta=None,
    activations=None,
    clip=None,
    direction="forward",
    hidden_size=None,
    input_forget=0,
    layout=0,
):
    """A network of one layer, and its parameters, from the weights and attributes of an LSTM node.

    Parameters
    ----------
    arrays : mapping of str to array
        W (dirs, 4*H, D), R (dirs, 4*H, H), and where the node has them B (dirs, 8*H) and P (dirs, 3*H), of any one
        library.
    activation_alpha, activation_beta, activations, clip, direction, hidden_size, input_forget, layout
        The attributes of the node, as in `onnx_lstm`. With layout 0 the network is time-major, as X is.

    Returns
    -------
    network : LSTM
    params : tuple of Direction
        Arrays of the same library and dtype. The bias is the sum of the two.

    Raises
    ------
    ValueError
        If an array is missing, misshapen, or one too many; if an attribute has no such value; if the two directions
        have different activations, which a network here cannot have (`onnx_lstm` can).
    TypeError
        If the arrays are none of one library and floating dtype.

    See Also
    --------
    onnx_lstm : the operator itself.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_xp.weights import from_onnx
    >>> network, params = from_onnx({"W": np.zeros((2, 16, 3)), "R": np.zeros((2, 16, 4))}, direction="bidirectional")
    >>> network.bidirectional, network.time_major, params[1].Wx.shape
    (True, True, (3, 16))
    """
    function = "from_onnx"
    arrays = {name: array for name, array in tensors.mapping(function, arrays).items() if array is not None}
    check_attributes(function, direction=direction, layout=layout, input_forget=input_forget, clip=clip)
    sizes = {}
    for name, letters in (("W", "(dirs, 4*H, D)"), ("R", "(dirs, 4*H, H)")):
        if name not in arrays:
            raise ValueError(f"{function}: {name} is missing; it must have shape {letters}.")
        sizes[name] = tensors.shape(function, name, arrays[name], letters)
    (_, _, D), (_, _, H), dirs = sizes["W"], sizes["R"], len(DIRECTIONS[direction])
    if hidden_size is not None and hidden_size != H:
        raise ValueError(f"{function}: hidden_size must be H = {H} for R {sizes['R']}; got {hidden_size!r}.")
    expected = {name: rule for name, rule in rules(dirs, D, H).items() if name in arrays}
    implied = f"W has D = {D}, R has H = {H}, and direction {direction!r} is dirs = {dirs}"
    xp = tensors.check(function, arrays, expected, implied)
    tensors.no_others(function, arrays, expected, implied)
    functions = functions_of(function, activations, activation_alpha, activation_beta, dirs)
    if functions[0] != functions[-1]:
        raise ValueError(
            f"{function}: a network has the same activations in both directions; got "
            f"{_listed(functions[0])} and {_listed(functions[1])}. onnx_lstm computes it."
        )
    network = LSTM(
        D,
        H,
        bidirectional=dirs == 2,
        reverse=direction == "reverse",
        bias="B" in arrays,
        time_major=not layout,
        peepholes="P" in arrays,
        coupled=bool(input_forget),
        clip=None if clip is None else float(clip),
        activations=tuple(kind.name if kind[1:] == (None, None) else tuple(kind) for kind in functions[0]),
    )
    W, R, B, P = (arrays.get(name) for name in ("W", "R", "B", "P"))
    params = (direction_of(*(None if v is None else v[k, ...] for v in (W, R, B, P)), xp) for k in range(dirs))
    return network, tuple(params)


def to_onnx(network, params):
    """The weights and attributes of LSTM nodes, one for each layer, each of which `from_onnx` takes.

    They are those of layout 0, whose X is time-major, whether the network is or not.

    Parameters
    ----------
    network : LSTM
        Without what the operator lacks: projection, layer normalisation, zoneout.
    params : tuple of Direction
        Arrays of any one library.

    Returns
    -------
    list of (dict, dict)
        For each layer the arrays W, R, B and P (those that the network has; the second half of B is zero), and the
        attributes that are not the operator's defaults.

    Raises
    ------
    ValueError
        If the network has what the operator lacks, or the parameters are not its own.

    Examples
    --------
    >>> from lstm_xp import LSTM
    >>> from lstm_xp.weights import to_onnx
    >>> network = LSTM(3, 4, reverse=True, clip=2.0)
    >>> ((arrays, attributes),) = to_onnx(network, network.init())
    >>> {name: array.shape for name, array in arrays.items()}, attributes
    ({'W': (1, 16, 3), 'R': (1, 16, 4), 'B': (1, 32)}, {'hidden_size': 4, 'direction': 'reverse', 'clip': 2.0})
    """
    may = ("num_layers", "bidirectional", "reverse", "peepholes", "coupled", "clip", "activations")
    xp = tensors.outgoing("to_onnx", network, params, "the operator LSTM of ONNX", may)
    dirs, layers = network.num_directions, []
    for layer in range(network.num_layers):
        parts = zip(*(arrays_of(p, xp) for p in params[dirs * layer : dirs * (layer + 1)]), strict=True)
        named = zip(("W", "R", "B", "P"), parts, strict=True)
        arrays = {name: xp.stack(values) for name, values in named if values[0] is not None}
        layers.append((arrays, attributes_of(network)))
    return layers


def names(path):
    """The networks in a file: a node's name, or those of its layers joined with "+"."""
    return ["+".join(stack) for stack in Graph(path).stacks()]


def others(path, name=None):
    """The floating weights in a file that are not those of these nodes (as in `read`), of any LSTM for None."""
    graph = Graph(path)
    return graph.others(graph.lstms if name is None else _nodes(graph, name))


def read(path, name=None):
    """Network and parameters of LSTM nodes in a file.

    Parameters
    ----------
    path : str, path or onnx.ModelProto
        A model; the weights must be constants, in the file or in files beside it.
    name : str or None
        One of `names(path)`, or the name of a single LSTM node, or those of several joined with "+", the layers of one
        network; None for the only network there is.

    Returns
    -------
    network : LSTM
        Time-major or not as the first node is (layout 0 or 1), or as what a Transpose before it takes.
    params : tuple of Direction
        NumPy arrays.

    Raises
    ------
    ValueError
        If the file is damaged, its LSTM is one that a network here cannot be, there is none of this name, or none.
    ImportError
        If the package onnx is not installed.
    """
    graph = Graph(path)
    nodes = _nodes(graph, name)
    layers = [_layer(graph, node) for node in nodes]
    first = layers[0][0]
    for node, (found, _) in zip(nodes, layers, strict=True):
        if replace(found, input_size=first.input_size, time_major=first.time_major) != first:
            raise FileError(f"{graph.where}: {nodes[0]} and {node} differ in their settings: read them one by one.")
    batch_first = graph.is_batch_first(nodes[0])
    params = tuple(p for _, params in layers for p in params)
    network = replace(first, num_layers=len(layers), time_major=not batch_first)
    try:
        tensors.outgoing(graph.where, network, params, "", tensors.SETTINGS)
    except TypeError as error:
        raise FileError(str(error)) from None
    return network, params


def write(path, network, params, *, lengths=False, state=False):
    """Write a model that computes what `LSTM.forward` computes: one LSTM node for each layer.

    Its inputs are x, lengths (N,) of int32 and the state h0, c0, as `LSTM.forward` takes them; its outputs y, h_n, c_n.

    Parameters
    ----------
    path : str or path
        Replaced if there is one, whole or not at all.
    network : LSTM
        Without what the operator lacks: projection, layer normalisation, zoneout. Dropout is left out.
    params : tuple of Direction
        Arrays of any one library. bfloat16 is written as float32.
    lengths, state : bool
        Whether the model has these inputs; it then must be given them.

    Raises
    ------
    ValueError
        If the network has what the operator lacks, the parameters are not its own, or take 2 GiB.

    Notes
    -----
    Rows of length 0: onnxruntime returns zeros for their final state, not the initial one. Constants of activations and
    clip are float32 in ONNX.
    """
    onnx = package("onnx")
    helper, numpy_helper = package("onnx.helper"), package("onnx.numpy_helper")
    layers = to_onnx(network, params)
    layers = [({name: to_numpy(array) for name, array in arrays.items()}, attributes) for arrays, attributes in layers]
    if sum(array.nbytes for arrays, _ in layers for array in arrays.values()) > LIMIT - (1 << 20):
        raise ValueError(f"{path}: the parameters take more than 2 GiB, which an ONNX file cannot hold.")
    dtype = helper.np_dtype_to_tensor_dtype(layers[0][0]["W"].dtype)
    K, H, dirs = network.num_layers * network.num_directions, network.hidden_size, network.num_directions
    nodes, constants = [], {}

    def node(kind, inputs, *outputs, **attributes):
        nodes.append(helper.make_node(kind, inputs, outputs, name=outputs[0], **attributes))
        return outputs[0]

    def value(name, shape, dtype=dtype):
        return helper.make_tensor_value_info(name, dtype, shape)

    starts = {name: [""] * network.num_layers for name in ("h0", "c0")}
    if state:
        constants["directions"] = np.full(network.num_layers, dirs, "int64")
        for name, parts in starts.items():
            parts[:] = [f"{name}_{layer}" for layer in range(network.num_layers)]
            node("Split", [name, "directions"], *parts, axis=0)
    axes = ["T", "N"] if network.time_major else ["N", "T"]
    x = "x" if network.time_major else node("Transpose", ["x"], "x_time_major", perm=[1, 0, 2])
    constants["features"] = np.array([0, 0, dirs * H], "int64")
    for layer, (arrays, attributes) in enumerate(layers):
        constants |= {f"{name}_{layer}": array for name, array in arrays.items()}
        held = {name: f"{name}_{layer}" for name in arrays} | {"X": x, "sequence_lens": "lengths" if lengths else ""}
        held |= {"initial_h": starts["h0"][layer], "initial_c": starts["c0"][layer]}
        inputs = [held.get(name, "") for name in INPUTS]
        node("LSTM", inputs, f"lstm_{layer}", f"h_{layer}", f"c_{layer}", **attributes)
        x = node("Transpose", [f"lstm_{layer}"], f"directions_last_{layer}", perm=[0, 2, 1, 3])
        last = layer == network.num_layers - 1 and network.time_major
        x = node("Reshape", [x, "features"], "y" if last else f"features_{layer}")
    if not network.time_major:
        node("Transpose", [x], "y", perm=[1, 0, 2])
    for part in "hc":
        node("Concat", [f"{part}_{layer}" for layer in range(network.num_layers)], f"{part}_n", axis=0)
    given = [value("x", [*axes, network.input_size])]
    given += [value("lengths", ["N"], onnx.TensorProto.INT32)] if lengths else []
    given += [value(name, [K, "N", H]) for name in ("h0", "c0")] if state else []
    results = [value("y", [*axes, dirs * H]), value("h_n", [K, "N", H]), value("c_n", [K, "N", H])]
    tensor_protos = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "lstm_xp", given, results, tensor_protos)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR, producer_name="lstm_xp"
    )
    write_atomically(Path(path), model.SerializeToString())


def _nodes(graph, name):
    """The nodes of the network asked for: those that follow each other, or that `name` joins."""
    if name in graph.lstms:
        return [name]
    stacks = {"+".join(stack): stack for stack in graph.stacks()}
    joined = (name or "").split("+")
    if name not in stacks and all(each in graph.lstms for each in joined):
        return joined
    return stacks[tensors.one_of(graph.where, list(stacks), name, "its main graph has no node LSTM", joined=True)]


def _layer(graph, node):
    """Network and parameters of one node; what is wrong with it begins with the path and the node's name."""
    arrays, attributes = graph.weights(node), graph.attributes(node)
    try:
        with np.errstate(all="ignore"):  # the two biases are added, whatever they are
            return from_onnx(arrays, **attributes)
    except (ValueError, TypeError) as error:
        raise FileError(f"{graph.where}: {node}: {str(error).removeprefix('from_onnx: ')}") from None


def _listed(kinds):
    return ", ".join(" ".join(str(part) for part in kind if part is not None) for kind in kinds)
