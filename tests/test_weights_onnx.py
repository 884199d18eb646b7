"""ONNX: nodes as arrays, files read and written; onnxruntime and the onnx package's checker as witnesses."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lstm_xp import LSTM, State, onnx_lstm
from lstm_xp.libraries import to_numpy
from lstm_xp.testing import assert_close
from lstm_xp.weights import onnx as format_onnx
from lstm_xp.weights import onnx_graph
from lstm_xp.weights.onnx import from_onnx, names, read, to_onnx, write

DATA = Path(__file__).with_name("data")
LEAKY = ("HardSigmoid", ("LeakyRelu", 0.25), ("ScaledTanh", 0.75, 0.5))
NETWORKS = {
    "plain": LSTM(3, 4),
    "time-major": LSTM(3, 4, time_major=True),
    "layers": LSTM(3, 4, num_layers=3),
    "bidirectional": LSTM(3, 4, num_layers=2, bidirectional=True),
    "reverse": LSTM(3, 4, num_layers=2, reverse=True, bias=False),
    "variant": LSTM(3, 4, num_layers=2, peepholes=True, clip=0.5, activations=LEAKY, time_major=True),
    "coupled": LSTM(3, 4, bidirectional=True, coupled=True, activations=LEAKY),
}
networks = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)


def different(network, dtype="float32", seed=3):
    """Parameters with no two blocks alike."""
    rng = np.random.default_rng(seed)
    draw = lambda v: None if v is None else (0.5 * rng.standard_normal(v.shape)).astype(dtype)  # noqa: E731
    return tuple(type(p)(*map(draw, p)) for p in network.init())


def same(params, others):
    assert len(params) == len(others)
    for p, other in zip(params, others, strict=True):
        for name, mine, its in zip(p._fields, p, other, strict=True):
            assert (mine is None) == (its is None), name
            if mine is not None:
                assert type(mine) is type(its), name
                assert mine.dtype == its.dtype, name
                assert np.array_equal(to_numpy(mine), to_numpy(its)), name


def batch(network, N=3, T=5, dtype="float32"):
    rng = np.random.default_rng(4)
    K = network.num_layers * network.num_directions
    x = rng.standard_normal((T, N, 3) if network.time_major else (N, T, 3)).astype(dtype)
    return x, rng.standard_normal((K, N, 4)).astype(dtype), rng.standard_normal((K, N, 4)).astype(dtype)


# ---------------------------------------------------------------------------- arrays and attributes


@networks
@pytest.mark.without("jax", "dask")
def test_to_onnx_and_back_is_exact(network, lib):
    params = tuple(type(p)(*(None if v is None else lib.asarray(v) for v in p)) for p in different(network))
    layers = to_onnx(network, params)
    assert len(layers) == network.num_layers
    back = []
    for layer, (arrays, attributes) in enumerate(layers):
        found, own = from_onnx(arrays, **attributes, layout=int(not network.time_major))
        size = 3 if layer == 0 else network.num_directions * 4
        kinds = found.cell
        assert replace(found, activations=network.activations) == replace(network, input_size=size, num_layers=1)
        assert kinds == network.cell
        back += own
    same(params, back)


@networks
def test_one_layer_is_what_the_operator_computes(network):
    network = replace(network, num_layers=1)
    params = different(network, "float64")
    x, h0, c0 = batch(network, dtype="float64")
    lengths = [2, 5, 0]
    y, state, _ = network.forward(params, x, State(h0, c0), lengths=lengths)
    ((arrays, attributes),) = to_onnx(network, params)
    X = x if network.time_major else np.swapaxes(x, 0, 1)
    Y, Y_h, Y_c = onnx_lstm(X, **arrays, **attributes, sequence_lens=lengths, initial_h=h0, initial_c=c0)
    Y = np.concatenate([Y[:, k] for k in range(network.num_directions)], axis=-1)
    assert_close(Y if network.time_major else np.swapaxes(Y, 0, 1), y, steps=5)
    assert_close(Y_h, state.h, steps=5)
    assert_close(Y_c, state.c, steps=5)


def test_both_halves_of_the_bias_count():
    (((arrays, _)),) = to_onnx(LSTM(3, 4), different(LSTM(3, 4)))
    B = np.arange(32, dtype="float32")[None]
    _, (p,) = from_onnx(arrays | {"B": B})
    i, o, f, c = (np.arange(4 * k, 4 * k + 4) * 2 + 16 for k in range(4))
    assert np.array_equal(p.b, np.concatenate([i, f, o, c]))


W, R = np.ones((1, 16, 3)), np.ones((1, 16, 4))
WRONG = {
    "no mapping": ([W, R], {}, TypeError, "must be a mapping"),
    "no R": ({"W": W}, {}, ValueError, r"R is missing; it must have shape \(dirs, 4\*H, H\)"),
    "flat W": ({"W": W[0], "R": R}, {}, ValueError, r"W must have shape \(dirs, 4\*H, D\), no size 0; got \(16, 3\)"),
    "W of other gates": ({"W": np.ones((1, 12, 3)), "R": R}, {}, ValueError,
                         r"W must have shape .* = \(1, 16, 3\); got \(1, 12, 3\): W has D = 3, R has H = 4"),
    "two directions": ({"W": W, "R": R}, {"direction": "bidirectional"}, ValueError, r"= \(2, 16, 3\)"),
    "B": ({"W": W, "R": R, "B": np.ones((1, 16))}, {}, ValueError, r"B must have shape .* = \(1, 32\); got \(1, 16\)"),
    "one too many": ({"W": W, "R": R, "Q": W}, {}, ValueError, "Q is no tensor"),
    "dtypes": ({"W": W, "R": R.astype("float32")}, {}, TypeError, "R"),
    "hidden_size": ({"W": W, "R": R}, {"hidden_size": 5}, ValueError, r"hidden_size must be H = 4 for R \(1, 16, 4\)"),
    "unequal directions": (
        {"W": np.ones((2, 16, 3)), "R": np.ones((2, 16, 4))},
        {"direction": "bidirectional", "activations": ["Sigmoid", "Tanh", "Tanh", "Sigmoid", "Relu", "Tanh"]},
        ValueError, "the same activations in both directions; got Sigmoid, Tanh, Tanh and Sigmoid, Relu, Tanh",
    ),
    "clip": ({"W": W, "R": R}, {"clip": float("inf")}, ValueError, "clip must be a positive number or None; got inf"),
}  # fmt: skip


@pytest.mark.parametrize(("arrays", "attributes", "kind", "message"), WRONG.values(), ids=WRONG)
def test_errors(arrays, attributes, kind, message):
    from_onnx({"W": W, "R": R})
    with pytest.raises(kind, match=message) as caught:
        from_onnx(arrays, **attributes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"proj_size": 2}, {"layer_norm": True}, {"zoneout_h": 0.1}, {"zoneout_c": 0.1}])
def test_what_the_operator_lacks(change, tmp_path):
    network = LSTM(3, 4, **change)
    with pytest.raises(ValueError, match=f"operator LSTM of ONNX cannot hold a network with {next(iter(change))}="):
        to_onnx(network, network.init())
    pytest.importorskip("onnx")
    with pytest.raises(ValueError, match="cannot hold"):
        write(tmp_path / "model.onnx", network, network.init())
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------- files


def session(path):
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@networks
def test_a_file_and_back_is_exact(network, tmp_path):
    pytest.importorskip("onnx")
    path, params = tmp_path / "model.onnx", different(network)
    write(path, network, params)
    (name,) = names(path)
    assert name.count("+") == network.num_layers - 1
    found, back = read(path)
    assert found.cell == network.cell
    assert replace(found, activations=network.activations) == network
    same(params, back)
    same(params, read(path, name)[1])
    single, own = read(path, name.split("+")[-1])
    assert single.num_layers == 1
    same(params[-network.num_directions :], own)


@networks
@pytest.mark.parametrize("lengths", [None, [2, 5, 1]], ids=["full", "lengths"])
@pytest.mark.parametrize("with_state", [False, True], ids=["zeros", "state"])
def test_onnxruntime_computes_what_the_network_does(network, lengths, with_state, tmp_path):
    onnx = pytest.importorskip("onnx")
    path, params = tmp_path / "model.onnx", different(network)
    write(path, network, params, lengths=lengths is not None, state=with_state)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    x, h0, c0 = batch(network)
    feed = {"x": x}
    if lengths:
        feed["lengths"] = np.int32(lengths)
    if with_state:
        feed |= {"h0": h0, "c0": c0}
    results = session(path).run(["y", "h_n", "c_n"], feed)
    wide = [type(p)(*(None if v is None else v.astype("float64") for v in p)) for p in params]
    state = State(*(v.astype("float64") for v in (h0, c0))) if with_state else None
    y, end, _ = network.forward(wide, x.astype("float64"), state, lengths=lengths)
    for name, theirs, ours in zip(("y", "h_n", "c_n"), results, (y, *end), strict=True):
        assert_close(theirs, ours, like=theirs, steps=5 * network.num_layers, name=name)


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_other_dtypes_of_files(dtype, tmp_path):
    onnx = pytest.importorskip("onnx")
    network = LSTM(3, 4, num_layers=2)
    params = different(network, dtype)
    write(tmp_path / "model.onnx", network, params)
    onnx.checker.check_model(onnx.load(tmp_path / "model.onnx"), full_check=True)
    same(params, read(tmp_path / "model.onnx")[1])


def test_bfloat16_is_written_as_float32(library, tmp_path):
    pytest.importorskip("onnx")
    lib, network = library("torch"), LSTM(3, 4)
    params = tuple(type(p)(*(None if v is None else lib.asarray(v, "bfloat16") for v in p)) for p in different(network))
    write(tmp_path / "model.onnx", network, params)
    _, (p,) = read(tmp_path / "model.onnx")
    assert p.Wx.dtype == "float32"
    assert np.array_equal(p.Wx, to_numpy(params[0].Wx))


def test_what_protocol_buffers_cannot_hold(monkeypatch, tmp_path):
    pytest.importorskip("onnx")
    path, network = tmp_path / "model.onnx", LSTM(3, 4)
    write(path, network, network.init())
    monkeypatch.setattr(onnx_graph, "LIMIT", 100)
    with pytest.raises(ValueError, match="an ONNX file has less than 100"):
        read(path)
    monkeypatch.setattr(format_onnx, "LIMIT", 1 << 20)
    with pytest.raises(ValueError, match="the parameters take more than 2 GiB"):
        write(path, network, network.init())


def test_long_files_take_no_longer_than_they_are():
    """Many nodes of one name, all behind the same long chain: milliseconds, where a square would take minutes."""
    chain = [(f"i{k}", "Identity", [f"v{k}"], [f"v{k + 1}"], {}) for k in range(3000)]
    nodes = [("same", "LSTM", ["x", "v3000", "R0"], [f"y{k}"], {}) for k in range(3000)]
    made = model(*chain, *nodes, outputs=["y0"])
    began = time.process_time()
    assert len(names(made)) == 3000
    assert time.process_time() - began < 10
    with pytest.raises(ValueError, match="W of same must be a constant"):
        read(made, "same")


# ---------------------------------------------------------------------------- how layers hang together


def model(*nodes, constants=(), outputs=("Y",), declared=(), **sizes):
    """A model of nodes over two layers' weights W0, R0, W1, R1 and the given constants; `declared`: shapes by name."""
    onnx = pytest.importorskip("onnx")
    helper, of = onnx.helper, onnx.numpy_helper.from_array
    rng = np.random.default_rng(0)
    dirs, D, H = sizes.get("dirs", 1), sizes.get("D", 3), sizes.get("H", 4)
    shapes = {"W0": (dirs, 4 * H, D), "R0": (dirs, 4 * H, H), "W1": (dirs, 4 * H, dirs * H), "R1": (dirs, 4 * H, H),
              "B0": (dirs, 8 * H)}  # fmt: skip
    tensors = [of(rng.standard_normal(shape).astype("float32"), name) for name, shape in shapes.items()]
    tensors += [of(np.asarray(value), name) for name, value in dict(constants).items()]
    made = [helper.make_node(kind, inputs, results, name=name, **attributes)
            for name, kind, inputs, results, attributes in nodes]  # fmt: skip
    value = lambda name, shape=None: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)  # noqa: E731
    known = [value(name, shape) for name, shape in dict(declared).items()]
    graph = helper.make_graph(made, "graph", [value("x")], [value(name) for name in outputs], tensors, value_info=known)
    return helper.make_model(graph)


def lstm(name, x, layer, y, **attributes):
    return name, "LSTM", [x, f"W{layer}", f"R{layer}"], [y], {"hidden_size": 4} | attributes


def merged(sizes, *nodes, **attributes):
    """Transpose and Reshape, to these sizes, made by these nodes."""
    turned = "t", "Transpose", ["y0"], ["z"], {"perm": [0, 2, 1, 3]}
    return [turned, *nodes, ("r", "Reshape", ["z", sizes], ["y"], attributes)]


def computed(source, *spans):
    """Nodes that make "sizes" of these slices of a value's shape."""
    slices = [(f"k{k}", "Slice", ["shape", *map(str, span)], [f"k{k}"], {}) for k, span in enumerate(spans)]
    joined = "c", "Concat", [name for name, *_ in slices], ["sizes"], {"axis": 0}
    return ("n", "Shape", [source], ["shape"], {}), *slices, joined


BOTH = {"direction": "bidirectional"}
BETWEEN = {
    "squeeze": ([("s", "Squeeze", ["y0", "one"], ["y"], {})], {}, True),
    "squeeze from behind": ([("s", "Squeeze", ["y0", "minus"], ["y"], {})], {}, True),
    "squeeze by attribute": ([("s", "Squeeze", ["y0"], ["y"], {"axes": [1]})], {}, True),
    "identity": ([("s", "Squeeze", ["y0", "one"], ["z"], {}), ("i", "Identity", ["z"], ["y"], {})], {}, True),
    "transpose and reshape": (
        [("t", "Transpose", ["y0"], ["z"], {"perm": [0, 2, 1, 3]}), ("r", "Reshape", ["z", "merge"], ["y"], {})],
        BOTH, True,
    ),
    "there and back": (
        [("s", "Squeeze", ["y0", "one"], ["z"], {}), ("t", "Transpose", ["z"], ["w"], {"perm": [1, 0, 2]}),
         ("u", "Transpose", ["w"], ["y"], {"perm": [1, 0, 2]})], {}, True,
    ),
    "time and batch exchanged": (
        [("s", "Squeeze", ["y0", "one"], ["z"], {}), ("t", "Transpose", ["z"], ["y"], {"perm": [1, 0, 2]})], {}, False,
    ),
    "merged without transposing": ([("r", "Reshape", ["y0", "merge"], ["y"], {})], BOTH, False),
    "cells before directions": (
        [("t", "Transpose", ["y0"], ["z"], {"perm": [0, 2, 3, 1]}), ("r", "Reshape", ["z", "merge"], ["y"], {})],
        BOTH, False,
    ),
    "sizes of nobody knows what": (merged("counted"), BOTH, False),
    "sizes that are declared": (merged("counted"), BOTH | {"declared": {"z": [5, 2, 2, 4]}}, True),
    "sizes that are declared otherwise": (merged("counted"), BOTH | {"declared": {"z": [2, 5, 2, 4]}}, False),
    "a batch of any size": (merged("any batch"), BOTH | {"declared": {"z": [5, "n", 2, 4]}}, True),
    "time of any size": (merged("any batch"), BOTH | {"declared": {"z": ["t", 2, 2, 4]}}, False),
    "unknown sizes that are written as -1": (merged("any batch"), BOTH | {"declared": {"z": [-1, -1, 2, 4]}}, False),
    "zeros that are sizes": (merged("merge", allowzero=1), BOTH, False),
    "computed sizes": (merged("sizes", *computed("z", (0, 1), (1, 2), (3, 4))), BOTH, True),
    "computed sizes exchanged": (merged("sizes", *computed("z", (1, 2), (0, 1), (3, 4))), BOTH, False),
    "computed sizes, not two of them": (merged("sizes", *computed("z", (0, 1), (3, 4), (2, 3))), BOTH, False),
    "computed sizes of another": (merged("sizes", *computed("y0", (0, 1), (1, 2), (3, 4))), BOTH, False),
    "read for its sizes": (
        [("s", "Squeeze", ["y0", "one"], ["y"], {}), ("n", "Shape", ["y"], ["sizes"], {})], {}, True,
    ),
    "squeeze of all ones": ([("s", "Squeeze", ["y0"], ["y"], {})], {}, False),
    "a nonlinear node": (
        [("s", "Squeeze", ["y0", "one"], ["z"], {}), ("a", "Relu", ["z"], ["y"], {})], {}, False,
    ),
    "read twice": (
        [("s", "Squeeze", ["y0", "one"], ["y"], {}), ("a", "Relu", ["y"], ["other"], {})], {}, False,
    ),
    "other direction": ([("s", "Squeeze", ["y0", "one"], ["y"], {})], {"direction": "reverse", "second": {}}, False),
    "other clip": ([("s", "Squeeze", ["y0", "one"], ["y"], {})], {"second": {"clip": 1.0}}, False),
}  # fmt: skip


@pytest.mark.parametrize(("between", "attributes", "stacked"), BETWEEN.values(), ids=BETWEEN)
def test_which_nodes_are_layers_of_one_network(between, attributes, stacked, tmp_path):
    attributes = dict(attributes)
    declared = attributes.pop("declared", {})
    second = attributes.pop("second", attributes)
    constants = {"one": np.int64([1]), "minus": np.int64([-3]), "merge": np.int64([0, 0, -1]),
                 "counted": np.int64([5, 2, 8]), "any batch": np.int64([5, -1, 8])}  # fmt: skip
    constants |= {str(k): np.int64([k]) for k in range(5)}
    dirs = 2 if attributes == BOTH else 1
    nodes = [lstm("first", "x", 0, "y0", **attributes), *between, lstm("second", "y", 1, "Y", **second)]
    made = model(*nodes, constants=constants, declared=declared, dirs=dirs)
    assert names(made) == (["first+second"] if stacked else ["first", "second"])
    if stacked:
        network, params = read(made)
        assert (network.num_layers, len(params)) == (2, 2 * dirs)
        path = tmp_path / "model.onnx"
        path.write_bytes(made.SerializeToString())
        same(params, read(path)[1])
    else:
        with pytest.raises(ValueError, match="2 LSTMs found, choose one by name: 'first', 'second'"):
            read(made)
    assert read(made, "second")[0].num_layers == 1


def test_nodes_are_joined_by_name():
    """What stands between them is the user's affair; what they are must fit."""
    between = [("s", "Squeeze", ["y0", "one"], ["z"], {}), ("a", "Relu", ["z"], ["y"], {})]
    nodes = [lstm("first", "x", 0, "y0"), *between, lstm("second", "y", 1, "Y"), lstm("third", "x", 0, "Z", clip=1.0)]
    made = model(*nodes, constants={"one": np.int64([1])})
    with pytest.raises(ValueError, match=r"or join the layers of one network, such as 'first\+second'"):
        read(made)
    network, params = read(made, "first+second")
    assert network == LSTM(3, 4, num_layers=2, bias=False, time_major=True)
    same(params, read(made, "first")[1] + read(made, "second")[1])
    for name, message in {
        "second+first": r"^model: Wx of params\[1\] .* must have shape .* = \(4, 16\); got \(3, 16\)",
        "first+third": "first and third differ in their settings: read them one by one",
        "first+other": r"no LSTM is called 'first\+other'; found: 'first', 'second', 'third'",
        "first+": r"no LSTM is called 'first\+'",
    }.items():
        with pytest.raises(ValueError, match=message):
            read(made, name)


def test_an_output_in_between_keeps_nodes_apart():
    nodes = (lstm("a", "x", 0, "y0"), ("s", "Squeeze", ["y0", "one"], ["y"], {}), lstm("b", "y", 1, "Y"))
    constants = {"one": np.int64([1])}
    assert names(model(*nodes, constants=constants)) == ["a+b"]
    assert names(model(*nodes, constants=constants, outputs=("Y", "y"))) == ["a", "b"]


def test_nodes_without_names_and_with_the_same():
    nodes = [lstm("", "x", 0, "first"), lstm("same", "x", 0, "b"), lstm("same", "x", 0, "c")]
    assert names(model(*nodes)) == ["first", "same", "same (2)"]


def test_layout_and_transposes_say_whether_the_network_is_time_major():
    swap = ("t", "Transpose", ["x"], ["z"], {"perm": [1, 0, 2]})
    for nodes, time_major in (
        ([lstm("a", "x", 0, "Y")], True),
        ([swap, lstm("a", "z", 0, "Y")], False),
        ([lstm("a", "x", 0, "Y", layout=1)], False),
        ([swap, lstm("a", "z", 0, "Y", layout=1)], True),
    ):
        assert read(model(*nodes))[0].time_major is time_major


def test_constants_from_nodes():
    onnx = pytest.importorskip("onnx")
    value = np.random.default_rng(1).standard_normal((1, 16, 3)).astype("float32")
    constant = ("k", "Constant", [], ["W"], {"value": onnx.numpy_helper.from_array(value)})
    node = ("a", "LSTM", ["x", "V", "R0"], ["Y"], {"hidden_size": 4})
    _, (p,) = read(model(constant, ("i", "Identity", ["W"], ["V"], {}), node))
    assert np.array_equal(p.Wx[:, :4].T, value[0, :4])


# ---------------------------------------------------------------------------- what is refused


def test_messages_about_models(tmp_path):
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "m.onnx"
    cases = {
        "no LSTM found: its main graph has no node LSTM": model(("r", "Relu", ["x"], ["Y"], {})),
        "W of a must be a constant; 'x' is an input of the model": model(
            ("a", "LSTM", ["x", "x", "R0"], ["Y"], {"hidden_size": 4})
        ),
        "W of a must be a constant; 'V' is made by Relu. Export with constant folding": model(
            ("r", "Relu", ["W0"], ["V"], {}), ("a", "LSTM", ["x", "V", "R0"], ["Y"], {"hidden_size": 4})
        ),
        "a: hidden_size must be H = 4": model(lstm("a", "x", 0, "Y", hidden_size=7)),
        "a: direction must be one of 'forward'": model(lstm("a", "x", 0, "Y", direction="up")),
        "a: activation must be one of": model(lstm("a", "x", 0, "Y", activations=["Gelu", "Tanh", "Tanh"])),
        "a has the attribute 'gates', which LSTM does not have": model(lstm("a", "x", 0, "Y", gates=4)),
        "a: clip must be": model(lstm("a", "x", 0, "Y", clip=float("nan"))),
        r"a: W must have shape \(dirs, 4\*H, D\) = \(1, 16, 3\); got \(2, 16, 3\)": model(
            lstm("a", "x", 0, "Y"), dirs=2
        ),
        "W of a has the type 7; it must be one of FLOAT, DOUBLE, FLOAT16": model(
            ("a", "LSTM", ["x", "ints", "R0"], ["Y"], {}), constants={"ints": np.ones((1, 16, 3), "int64")}
        ),
    }
    for message, made in cases.items():
        path.write_bytes(made.SerializeToString())
        with pytest.raises(ValueError, match=message) as caught:
            read(path)
        assert str(caught.value).startswith(str(path))
    path.write_bytes(model(lstm("a", "x", 0, "Y"), lstm("b", "x", 0, "Z")).SerializeToString())
    with pytest.raises(ValueError, match="no LSTM is called 'c'; found: 'a', 'b'"):
        read(path, "c")
    path.write_bytes(b"\x0a\xff\xff\xff\xff\x0f")
    with pytest.raises(ValueError, match="damaged, or no ONNX file"):
        read(path)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.onnx")
    assert onnx


def test_names_that_are_no_text(tmp_path):
    """Protocol buffers hand them out as bytes."""
    path = tmp_path / "m.onnx"
    data = model(lstm("a_name", "x", 0, "a_value"), outputs=("a_value",)).SerializeToString()
    path.write_bytes(data)
    assert names(path) == ["a_name"]
    for text in (b"a_name", b"a_value", b"hidden_size", b"LSTM", b"W0"):
        path.write_bytes(data.replace(text, b"\xff" + text[1:]))
        with pytest.raises(ValueError, match=r"damaged: .* no UTF-8 text"):
            names(path)


def with_tensor(change):
    """A model with one LSTM node and its first constant, W, changed."""
    made = model(lstm("a", "x", 0, "Y"))
    change(made.graph.initializer[0])
    return made


def test_tensors_that_claim_what_is_not_there(tmp_path):
    """Nothing is allocated by what a shape says."""

    def claims(*dims):
        def change(tensor):
            tensor.dims[:] = dims

        return change

    def cut(tensor):
        tensor.raw_data = tensor.raw_data[:-1]

    for change, message in (
        (claims(1, 1 << 30, 1 << 30), "claims .* bytes for float32"),
        (claims(1 << 62, 1 << 62, 1 << 62), "claims .* bytes for float32"),
        (claims(1, -16, -3), "claims the shape"),
        (claims(1, 16, 4), "claims 256 bytes for float32 .*; there are 192"),
        (claims(), "claims 4 bytes for float32 .*; there are 192"),
        (cut, "there are 191"),
    ):
        with pytest.raises(ValueError, match=message):
            read(with_tensor(change))


def test_values_in_every_field():
    """float_data, double_data, and float16 as bits in int32_data."""
    onnx = pytest.importorskip("onnx")
    values = np.arange(48) / 4
    for dtype in ("FLOAT", "DOUBLE", "FLOAT16"):
        kind = getattr(onnx.TensorProto, dtype)
        made = model(lstm("a", "x", 0, "Y"))
        for tensor in made.graph.initializer[:2]:
            count = int(np.prod(tensor.dims))
            given = np.resize(values, count)
            tensor.CopyFrom(onnx.helper.make_tensor(tensor.name, kind, list(tensor.dims), given.tolist()))
            assert not tensor.raw_data
        network, (p,) = read(made)
        assert p.Wx.dtype == onnx.helper.tensor_dtype_to_np_dtype(kind)
        assert np.array_equal(p.Wx[:, :4].T, values[:12].reshape(4, 3))
        network.forward((p,), np.ones((2, 1, 3), p.Wx.dtype))


def external(location, offset="0", length="192"):
    onnx = pytest.importorskip("onnx")

    def change(tensor):
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", offset), ("length", length)):
            if value is not None:
                tensor.external_data.add(key=key, value=value)

    return with_tensor(change)


def test_external_data(tmp_path):
    folder, outside = tmp_path / "folder", tmp_path / "outside.bin"
    folder.mkdir()
    values = np.arange(56, dtype="float32")
    (folder / "weights.bin").write_bytes(values.tobytes())
    outside.write_bytes(values.tobytes())
    path = folder / "m.onnx"

    def load(*arguments):
        made = external(*arguments)
        path.write_bytes(made.SerializeToString())
        return read(path)[1][0].Wx

    assert np.array_equal(load("weights.bin")[:, :4].T.ravel(), values[:12])
    assert np.array_equal(load("weights.bin", "32", None)[:, :4].T.ravel(), values[8:20])
    (folder / "link.bin").symlink_to(outside)
    escapes = ("../outside.bin", str(outside), "a/../../outside.bin", "link.bin", "C:\\outside.bin", "..\\outside.bin",
               "", "weights.bin\0", "\\\\host\\share")  # fmt: skip
    for location in escapes:
        with pytest.raises(ValueError, match="only files beside the model are read"):
            load(location)
    for arguments, message in (
        (("none.bin",), "which is no file beside the model"),
        ((".",), "which is no file beside the model"),
        (("weights.bin", "36"), "192 at 36 of 'weights.bin', which has 224"),
        (("weights.bin", "0", "224"), "claims 192 bytes"),
        (("weights.bin", "-4"), "no valid offset and length"),
        (("weights.bin", "9" * 30), "no valid offset and length"),
        (("weights.bin", "x"), "no valid offset and length"),
    ):
        with pytest.raises(ValueError, match=message):
            load(*arguments)
    with pytest.raises(ValueError, match="only files beside the model are read"):
        read(external("weights.bin"))


@pytest.fixture(scope="module")
def victims(tmp_path_factory):
    """Real files: one of ours, and two of PyTorch's."""
    pytest.importorskip("onnx")
    folder = tmp_path_factory.mktemp("victims")
    network = LSTM(3, 2, num_layers=2, bidirectional=True, peepholes=True, activations=LEAKY, clip=0.5)
    write(folder / "ours.onnx", network, different(network))
    files = [folder / "ours.onnx", DATA / "torch_lstm.onnx", DATA / "torch_lstm_batch.onnx"]
    return [file.read_bytes() for file in files], folder / "mutant.onnx"


edits = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from(("set", "flip", "insert", "delete", "cut")), st.integers(0, 255),
              st.integers(1, 40)),
    min_size=1, max_size=4,
)  # fmt: skip


def mutated(data, edits):
    data = bytearray(data)
    for where, how, value, count in edits:
        place = int(where * max(0, len(data) - 1))
        if how == "set":
            data[place : place + 1] = bytes([value])
        elif how == "flip" and data:
            data[place] ^= 1 << value % 8
        elif how == "insert":
            data[place:place] = bytes([value]) * count
        elif how == "delete":
            del data[place : place + count]
        else:
            del data[place:]
    return bytes(data)


@settings(max_examples=300, deadline=None, derandomize=True, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(which=st.integers(0, 2), changes=edits)
def test_damaged_files_are_value_errors(victims, which, changes):
    data, path = victims
    path.write_bytes(mutated(data[which], changes))
    for call in (names, read):
        try:
            call(path)
        except ValueError as error:
            assert "\n" not in str(error)  # noqa: PT017  whatever the message, it is one line


def test_a_message_where_onnx_is_missing(monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "onnx", None)
    for call in (lambda: names(tmp_path / "m.onnx"), lambda: write(tmp_path / "m.onnx", LSTM(3, 4), LSTM(3, 4).init())):
        with pytest.raises(ImportError, match=r"this needs onnx: pip install onnx$"):
            call()
    assert not list(tmp_path.iterdir())
    assert format_onnx.__name__ == "lstm_xp.weights.onnx"
