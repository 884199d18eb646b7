"""Keras: weights as arrays, files read; witnesses are a file that Keras wrote, and Keras where it is installed."""

import functools
import io
import json
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lstm_xp import LSTM, State, weights
from lstm_xp.libraries import to_numpy
from lstm_xp.testing import assert_close
from lstm_xp.weights import keras_file
from lstm_xp.weights.keras import from_keras, names, read, to_keras

# Keras 3.15 on PyTorch under NumPy 2: not this package's calls.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

DATA = Path(__file__).with_name("data")
NETWORKS = {
    "one": LSTM(3, 4),
    "no bias": LSTM(3, 4, bias=False),
    "layers": LSTM(3, 4, num_layers=3),
    "bidirectional": LSTM(3, 4, num_layers=2, bidirectional=True),
    "bidirectional, no bias": LSTM(3, 4, bidirectional=True, bias=False),
    "reverse": LSTM(3, 4, num_layers=2, reverse=True),
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


# ---------------------------------------------------------------------------- weights as arrays


@networks
@pytest.mark.without("jax", "dask")
def test_to_keras_and_back_is_exact(network, lib):
    params = tuple(type(p)(*(None if v is None else lib.asarray(v) for v in p)) for p in different(network))
    layers = to_keras(network, params)
    assert len(layers) == network.num_layers
    again, back = from_keras(*layers, reverse=network.reverse)
    assert again == network
    same(params, back)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def test_the_equations_of_the_layer():
    """One step, gate by gate, as Keras writes it; what is checked where Keras is not installed."""
    network = LSTM(3, 4)
    ((kernel, recurrent, bias),) = to_keras(network, params := different(network, "float64"))
    rng = np.random.default_rng(8)
    x, h, c = rng.standard_normal((2, 3)), rng.standard_normal((2, 4)), rng.standard_normal((2, 4))
    z0, z1, z2, z3 = np.split(x @ kernel + h @ recurrent + bias, 4, axis=1)
    i, f = sigmoid(z0), sigmoid(z1)
    new = f * c + i * np.tanh(z2)
    o = sigmoid(z3)
    y, state, _ = network.forward(params, x[:, None], State(h[None], c[None]))
    assert_close(y[:, 0], o * np.tanh(new))
    assert_close(state.c[0], new)


WRONG = {
    "none": ([], TypeError, "at least one layer"),
    "no list": ([np.ones((3, 16))], ValueError, r"layers\[0\] must be a list of 2, 3, 4 or 6 arrays.*got ndarray"),
    "five": ([[np.ones(1)] * 5], ValueError, r"layers\[0\] must be a list of 2, 3, 4 or 6 arrays.*got 5 arrays"),
    "one with bias, one without": (
        [[np.ones((3, 16)), np.ones((4, 16)), np.ones(16)], [np.ones((4, 16)), np.ones((4, 16))]],
        ValueError, r"layers\[1\] must be a list of 3 arrays.*got 2 arrays",
    ),
    "a GRU": ([[np.ones((3, 12)), np.ones((4, 12)), np.ones(12)]], ValueError,
              r"layers\[0\].recurrent_kernel \(4, 12\) belongs to a GRU, not to an LSTM"),
    "misshapen": ([[np.ones((3, 12)), np.ones((4, 16)), np.ones(16)]], ValueError,
                  r"layers\[0\].kernel must have shape .* = \(3, 16\); got \(3, 12\): layers\[0\] has D = 3 and H"),
    "CuDNNLSTM's bias": ([[np.ones((3, 16)), np.ones((4, 16)), np.ones(32)]], ValueError,
                         r"layers\[0\].bias must have shape \(4\*H,\) = \(16,\); got \(32,\)"),
    "backward": ([[np.ones((3, 16)), np.ones((4, 16)), np.ones((3, 16)), np.ones((5, 20))]], ValueError,
                 r"layers\[0\].backward_recurrent_kernel must have shape .* = \(4, 16\); got \(5, 20\)"),
    "layers that do not follow": ([[np.ones((3, 16)), np.ones((4, 16))]] * 2, ValueError,
                                  r"layers\[1\].kernel must have shape .* = \(4, 16\); got \(3, 16\)"),
    "dtypes": ([[np.ones((3, 16)), np.ones((4, 16)), np.ones(16, "float32")]], TypeError, r"layers\[0\].bias"),
}  # fmt: skip


@pytest.mark.parametrize(("layers", "kind", "message"), WRONG.values(), ids=WRONG)
def test_errors(layers, kind, message):
    from_keras([np.ones((3, 16)), np.ones((4, 16)), np.ones(16)])
    with pytest.raises(kind, match=message) as caught:
        from_keras(*layers)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "network", [LSTM(3, 4, proj_size=2), LSTM(3, 4, peepholes=True), LSTM(3, 4, clip=1.0)], ids=str
)
def test_what_the_layer_lacks(network):
    with pytest.raises(ValueError, match="Keras's LSTM cannot hold a network with"):
        to_keras(network, network.init())


# ---------------------------------------------------------------------------- a file that Keras wrote


HARD = ("HardSigmoid", 1 / 6, 0.5)
LAYERS = {
    "first": LSTM(3, 4, activations=(HARD, "Tanh", "Tanh"), input_dropout=0.25),
    "both": LSTM(4, 5, bidirectional=True),
    "last": LSTM(10, 2, reverse=True, bias=False, activations=("Sigmoid", "Relu", "Relu")),
}


def test_a_file_of_keras():
    """Its layers, one after the other, give the outputs that Keras gave."""
    pytest.importorskip("h5py")
    path, witness = DATA / "keras_lstm.keras", np.load(DATA / "keras_lstm.npz")
    assert names(path) == list(LAYERS)
    y = witness["x"].astype("float64")
    for name, network in LAYERS.items():
        found, params = read(path, name)
        assert found == network
        wide = tuple(type(p)(*(None if v is None else v.astype("float64") for v in p)) for p in params)
        y, state, _ = found.forward(wide, y)
        result = state.h[0] if name == "last" else y
        assert_close(witness[name], result, like=witness[name], steps=18, name=name)


def test_one_of_several_is_asked_for():
    pytest.importorskip("h5py")
    path = DATA / "keras_lstm.keras"
    with pytest.raises(ValueError, match="3 LSTMs found, choose one by name: 'first', 'both', 'last'") as caught:
        read(path)
    assert str(caught.value).endswith(", or join the layers of one network, such as 'first+both'.")
    with pytest.raises(ValueError, match="no LSTM is called 'dense'; found: 'first', 'both', 'last'"):
        read(path, "dense")
    with pytest.raises(ValueError, match="no LSTM is called 'dense'"):
        read(path, "first+dense")
    with pytest.raises(ValueError, match="first and both differ in their settings: read them one by one"):
        read(path, "first+both")


# ---------------------------------------------------------------------------- files made here, by the layouts of Keras


def store(h5py, layers, start="layers/"):
    """A weights file in Keras 3's layout: path of a layer -> list of arrays, or two lists."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for path, weights in layers.items():
            ways = {"": weights}
            if isinstance(weights, tuple):
                ways = {"/forward_layer": weights[0], "/backward_layer": weights[1]}
            for way, arrays in ways.items():
                for place, array in enumerate(arrays):
                    file[f"{start}{path}{way}/cell/vars/{place}"] = array
    return buffer.getvalue()


def pack(path, data, layers, **change):
    """A .keras file: these weights, and these serialised layers as its configuration."""
    config = {"class_name": "Sequential", "config": {"layers": layers}}
    members = {"metadata.json": json.dumps({"keras_version": "3.5.0"}), "config.json": json.dumps(config)}
    members |= {"model.weights.h5": data} | change
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            if content is not None:
                archive.writestr(name, content)
    return path


def lstm(name="cell", **config):
    return {"module": "keras.layers", "class_name": "LSTM", "config": {"name": name, **config}}


def bidirectional(forward, backward=None, **config):
    inner = {"name": "pair", "layer": forward, **config} | ({} if backward is None else {"backward_layer": backward})
    return {"module": "keras.layers", "class_name": "Bidirectional", "config": inner}


@pytest.fixture
def saved(tmp_path):
    """A function: settings of a layer in its configuration -> a file that has it."""
    h5py = pytest.importorskip("h5py")
    (weights,) = to_keras(LSTM(3, 4), different(LSTM(3, 4)))

    def save(entry, *, two=False, **change):
        place = "bidirectional" if two else "lstm"
        data = store(h5py, {place: (weights, weights) if two else weights})
        return pack(tmp_path / "model.keras", data, [entry], **change)

    return save


@pytest.mark.parametrize(("config", "network"), [
    ({}, LSTM(3, 4)),
    ({"go_backwards": True}, LSTM(3, 4, reverse=True)),
    ({"recurrent_activation": "hard_sigmoid"}, LSTM(3, 4, activations=(HARD, "Tanh", "Tanh"))),
    ({"activation": "linear"}, LSTM(3, 4, activations=("Sigmoid", ("Affine", 1.0, 0.0), ("Affine", 1.0, 0.0)))),
    ({"dropout": 0.5, "recurrent_dropout": 0.25}, LSTM(3, 4, input_dropout=0.5, recurrent_dropout=0.25)),
    ({"unroll": True, "stateful": True, "return_state": True, "implementation": 1}, LSTM(3, 4)),
    ({"time_major": True}, LSTM(3, 4, time_major=True)),
], ids=str)  # fmt: skip
def test_settings_of_a_layer(saved, config, network):
    found, params = read(saved(lstm(**config)))
    assert found == network
    same(params, different(LSTM(3, 4)))


def test_hard_sigmoid_of_keras_2(saved):
    path = saved(lstm(recurrent_activation="hard_sigmoid"), **{"metadata.json": '{"keras_version": "2.15.0"}'})
    assert read(path)[0].activations[0] == ("HardSigmoid", 0.2, 0.5)


ALIKE = {
    "swapped directions": (bidirectional(lstm(go_backwards=True), lstm()), "go_backwards is True in its forward layer"),
    "both forward": (bidirectional(lstm(), lstm()), "go_backwards is False in its backward layer"),
    "summed": (bidirectional(lstm(), merge_mode="sum"), "merge_mode is 'sum'; the directions here are side by side"),
    "apart": (bidirectional(lstm(), merge_mode=None), "merge_mode is None"),
    "different": (
        bidirectional(lstm(), lstm(go_backwards=True, activation="relu")), "forward and backward layers differ",
    ),
    "not two": (lstm(), "the configuration of the model does not say what this layer computes"),
}  # fmt: skip


@pytest.mark.parametrize(("entry", "message"), ALIKE.values(), ids=ALIKE)
def test_bidirectional_layers_that_are_no_network(saved, entry, message):
    read(saved(bidirectional(lstm()), two=True))
    path = saved(entry, two=True)
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))


OTHERS = {
    "reversed outputs": (lstm(go_backwards=True, return_sequences=True), "returns its outputs in reversed order"),
    "no bias": (lstm(use_bias=False), "layers/lstm/cell/vars has a bias, against its configuration"),
    "own activation": (lstm(activation={"class_name": "function", "config": "mine"}), "activation must be one of"),
    "unknown activation": (lstm(recurrent_activation="gelu"), "recurrent_activation must be one of .*'gelu'"),
    "a rate": (lstm(dropout=1.5), r"dropout must lie in \[0, 1\); it is 1.5"),
    "a rate in words": (lstm(recurrent_dropout="much"), "recurrent_dropout must lie in"),
    "a class of the user's": (
        lstm() | {"module": "mymodule", "registered_name": "mymodule>LSTM"}, "does not say what this layer computes",
    ),
    "another class": (lstm() | {"class_name": "GRU"}, "does not say what this layer computes"),
}  # fmt: skip


@pytest.mark.parametrize(("entry", "message"), OTHERS.values(), ids=OTHERS)
def test_layers_that_are_no_network(saved, entry, message):
    with pytest.raises(ValueError, match=message):
        read(saved(entry))


def test_layers_are_found_by_their_place_in_the_configuration(tmp_path):
    """Two of one class, a nested model, an RNN of an LSTMCell, and others between them."""
    h5py = pytest.importorskip("h5py")
    weights = {seed: to_keras(LSTM(3, 4), different(LSTM(3, 4), seed=seed))[0] for seed in range(4)}
    data = store(h5py, {"lstm": weights[0], "lstm_1": weights[1], "sequential/layers/lstm": weights[2],
                        "rnn": weights[3]})  # fmt: skip
    dense = {"module": "keras.layers", "class_name": "Dense", "config": {"name": "dense"}}
    rnn = {"class_name": "RNN", "config": {"name": "r", "go_backwards": True, "cell": {
        "class_name": "LSTMCell", "config": {"name": "c", "activation": "relu"}}}}  # fmt: skip
    nested = {"class_name": "Sequential", "config": {"name": "n", "layers": [dense, lstm("c", activation="elu")]}}
    entries = [lstm("b", activation="relu"), dense, lstm("a", return_sequences=True), nested, rnn]
    path = pack(tmp_path / "model.keras", data, entries)
    assert names(path) == ["b", "a", "c", "r"]
    for seed, (name, kind) in enumerate({"b": "Relu", "a": "Tanh", "c": "Elu", "r": "Relu"}.items()):
        network, params = read(path, name)
        assert (network.activations[1], network.reverse) == (kind, name == "r")
        same(params, different(LSTM(3, 4), seed=seed))


def test_layers_put_together(tmp_path):
    h5py = pytest.importorskip("h5py")
    network = LSTM(3, 4, num_layers=2)
    one, two = to_keras(network, params := different(network))
    data = store(h5py, {"lstm": one, "lstm_1": two})
    path = pack(tmp_path / "model.keras", data, [lstm("one", return_sequences=True), lstm("two")])
    found, back = read(path, "one+two")
    assert found == network
    same(params, back)
    with pytest.raises(ValueError, match="two: return_sequences is False, so no layer can follow"):
        read(path, "two+one")
    path = tmp_path / "model.weights.h5"  # which does not say
    path.write_bytes(data)
    found, back = read(path, "lstm+lstm_1")
    assert found == network
    same(params, back)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("network", [NETWORKS[name] for name in NETWORKS if name != "reverse"])
def test_a_written_file_and_back_is_exact(network, dtype, tmp_path):
    pytest.importorskip("h5py")
    path, params = tmp_path / "model.weights.h5", different(network, dtype)
    weights.write(path, network, params)
    assert len(names(path)) == network.num_layers
    again, back = weights.read(path, "+".join(names(path)))
    assert again == network
    same(params, back)
    with pytest.raises(FileExistsError):
        weights.write(path, network, params)


@pytest.mark.parametrize(
    ("name", "network", "message"),
    [
        ("m.keras", LSTM(3, 4), r"m\.keras: of Keras's files, those of weights alone can be written: \*\.weights\.h5"),
        ("m.h5", LSTM(3, 4), r"m\.h5: of Keras's files, those of weights alone can be written"),
        ("m.weights.h5", LSTM(3, 4, reverse=True), "a file of weights alone cannot hold a network with reverse=True"),
        ("m.weights.h5", LSTM(3, 4, activations=("Relu",) * 3), "cannot hold a network with activations="),
        ("m.weights.h5", LSTM(3, 4, peepholes=True), "cannot hold a network with peepholes=True"),
    ],
)
def test_what_is_not_written(name, network, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        weights.write(tmp_path / name, network, network.init())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("root", ["model_weights/", ""])
@pytest.mark.parametrize("cell", ["lstm_cell/", "lstm_cell_7/", ""])
def test_files_of_keras_2(tmp_path, root, cell):
    """Names end in :0; Bidirectional's layers are called forward_... and backward_..."""
    h5py = pytest.importorskip("h5py")
    network = LSTM(3, 4, bidirectional=True)
    (both,) = to_keras(network, pair := different(network))
    (one,) = to_keras(LSTM(3, 4), alone := different(LSTM(3, 4), seed=4))
    kinds = ("kernel:0", "recurrent_kernel:0", "bias:0")
    path = tmp_path / "model.h5"
    with h5py.File(path, "w") as file:
        for kind, array in zip(kinds, one, strict=True):
            file[f"{root}memory/memory/{cell}{kind}"] = array
        for k, way in enumerate(("forward", "backward")):
            for kind, array in zip(kinds, both[3 * k : 3 * k + 3], strict=True):
                file[f"{root}pair/pair/{way}_lstm/{cell}{kind}"] = array
        layers = [lstm("memory", recurrent_activation="hard_sigmoid"), bidirectional(lstm("lstm"))]
        for entry in layers:
            del entry["module"]
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": layers})
        (file["model_weights"] if root else file).attrs["keras_version"] = b"2.2.4"
    assert names(path) == ["memory", "pair"]
    found, params = read(path, "memory")
    assert found.activations[0] == ("HardSigmoid", 0.2, 0.5)
    same(params, alone)
    found, params = read(path, "pair")
    assert found == network
    same(params, pair)


def test_the_version_is_not_looked_up_in_another_file(tmp_path):
    h5py = pytest.importorskip("h5py")
    (one,) = to_keras(LSTM(3, 4), different(LSTM(3, 4)))
    path, other = tmp_path / "model.h5", tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file.create_group("g").attrs["keras_version"] = "3.5.0"
    with h5py.File(path, "w") as file:
        for kind, array in zip(("kernel:0", "recurrent_kernel:0", "bias:0"), one, strict=True):
            file[f"memory/memory/{kind}"] = array
        file["model_weights"] = h5py.ExternalLink(str(other), "g")
        entry = lstm("memory", recurrent_activation="hard_sigmoid")
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"layers": [entry]}})
    assert read(path)[0].activations[0] == ("HardSigmoid", 0.2, 0.5)


def test_a_configuration_that_is_not_found_is_not_made_up(tmp_path):
    h5py = pytest.importorskip("h5py")
    (one,) = to_keras(LSTM(3, 4), different(LSTM(3, 4)))
    path = tmp_path / "model.h5"
    for text, message in (
        (None, None),
        (np.bytes_(b'{"class_name": 1, "config": 2}'), "its model_config"),
        ("{", "its"),
    ):
        with h5py.File(path, "w") as file:
            for kind, array in zip(("kernel", "recurrent_kernel", "bias"), one, strict=True):
                file[f"memory/{kind}"] = array
            if text is not None:
                file.attrs["model_config"] = text
        if message is None:
            assert read(path)[0] == LSTM(3, 4)
        else:
            with pytest.raises(ValueError, match=message):
                read(path)


# ---------------------------------------------------------------------------- what is refused


def test_archives_that_are_none(saved, tmp_path):
    good = saved(lstm())
    data = good.read_bytes()
    with zipfile.ZipFile(good) as archive:
        weights = archive.read("model.weights.h5")
    cases = {
        "there is no config.json in it": pack(tmp_path / "a.keras", weights, [], **{"config.json": None}),
        "there is no model.weights.h5 in it": pack(tmp_path / "b.keras", weights, [], **{"model.weights.h5": None}),
        "config.json is no JSON object": pack(tmp_path / "c.keras", weights, [], **{"config.json": "[" * 100_000}),
        "metadata.json is no JSON object": pack(tmp_path / "d.keras", weights, [], **{"metadata.json": "[]"}),
        "model.weights.h5 would inflate to": pack(
            tmp_path / "e.keras", weights, [], **{"model.weights.h5": bytes(1 << 25)}
        ),
        "config.json would inflate to": pack(tmp_path / "f.keras", weights, [], **{"config.json": bytes(1 << 25)}),
        "damaged, or no file of Keras": pack(tmp_path / "g.keras", b"no HDF5", []),
    }
    for name, content in (("h.keras", b""), ("i.h5", b"text"), ("j.keras", data[:-30]), ("k.h5", weights[:100])):
        (tmp_path / name).write_bytes(content)
        cases[f"{name}: damaged, or no file of Keras"] = tmp_path / name
    with zipfile.ZipFile(tmp_path / "l.keras", "w") as archive:
        archive.writestr("config.json", "{}")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("config.json", "{}")
    cases["it holds 'config.json' twice"] = tmp_path / "l.keras"
    there = set(tmp_path.iterdir())
    for message, path in cases.items():
        with pytest.raises(ValueError, match=message) as caught:
            names(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        names(tmp_path / "none.keras")
    assert set(tmp_path.iterdir()) == there  # nothing was unpacked


def test_data_that_are_elsewhere_or_not_there(tmp_path):
    """External storage, links, virtual data, shapes without bytes, and types that are no numbers."""
    h5py = pytest.importorskip("h5py")
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.ones(48, "float32").tobytes())
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["0"] = np.ones((3, 16), "float32")
    layout = h5py.VirtualLayout((3, 16), "float32")
    layout[:] = h5py.VirtualSource(other, "0", (3, 16))
    place = "layers/lstm/cell/vars/0"
    text = np.array([["x"] * 16] * 3, dtype=object)
    makers = {
        "lies in another file": [
            lambda file: file.create_dataset(place, (3, 16), "float32", external=[(str(secret), 0, 192)]),
            lambda file: file.create_virtual_dataset(place, layout),
        ],
        "no LSTM found": [
            lambda file: file.__setitem__(place, h5py.ExternalLink(str(other), "0")),
            lambda file: file.__setitem__(place, h5py.SoftLink("/elsewhere")),
        ],
        "claims .* bytes for float32": [
            lambda file: file.create_dataset(place, (1 << 40, 16), "float32"),
            lambda file: file.create_dataset(place, (1 << 30, 16), "float32", chunks=(1, 16)),
        ],
        "is int64; it must be float16": [lambda file: file.__setitem__(place, np.ones((3, 16), "int64"))],
        "is object; it must be float16": [
            lambda file: file.create_dataset(place, data=text, dtype=h5py.string_dtype())
        ],
        r"kernel must have shape \(D, 4\*H\) = \(3, 16\); got \(3, 12\)": [
            lambda file: file.__setitem__(place, np.ones((3, 12), "float32"))
        ],
    }
    for message, group in makers.items():
        for number, make in enumerate(group):
            path = tmp_path / f"{abs(hash(message))}{number}.weights.h5"
            with h5py.File(path, "w") as file:
                file["elsewhere"] = np.ones((3, 16), "float32")
                make(file)
                file["layers/lstm/cell/vars/1"] = np.ones((4, 16), "float32")
            with pytest.raises(ValueError, match=message):
                read(path)


def test_a_heap_of_heaps_is_walked_once(tmp_path):
    """Each object holds the beginning of a collection that goes on to the end of the file."""
    path, count = tmp_path / "model.h5", 3000
    collection = b"GCOL" + bytes(4) + (1 << 40).to_bytes(8, "little")
    item = (1).to_bytes(8, "little") + (16).to_bytes(8, "little") + collection
    path.write_bytes(collection + item * count)
    assert len(list(keras_file._texts_in(path))) == count


edits = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from(("set", "flip", "delete", "cut")), st.integers(0, 255),
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
        elif how == "delete":
            del data[place : place + count]
        else:
            del data[place:]
    return bytes(data)


fuzzed = settings(max_examples=200, deadline=None, derandomize=True, database=None,
                  suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("keras")


@functools.cache
def old_file(folder):
    """A file in the layout of Keras 2."""
    h5py = pytest.importorskip("h5py")
    (one,) = to_keras(LSTM(3, 4), different(LSTM(3, 4)))
    with h5py.File(folder / "old.h5", "w") as file:
        for kind, array in zip(("kernel:0", "recurrent_kernel:0", "bias:0"), one, strict=True):
            file[f"model_weights/memory/memory/{kind}"] = array
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"layers": [lstm("memory")]}})
        file["model_weights"].attrs["keras_version"] = b"2.2.4"
    return (folder / "old.h5").read_bytes()


def looked_at(path):
    for each in names(path):
        read(path, each)


@fuzzed
@given(member=st.sampled_from((None, "config.json", "model.weights.h5", "the old layout")), changes=edits)
def test_damaged_files_are_value_errors(folder, member, changes):
    """Of the archive itself, or of what is in it."""
    pytest.importorskip("h5py")
    original, path = DATA / "keras_lstm.keras", folder / "mutant.keras"
    if member == "the old layout":
        path.write_bytes(mutated(old_file(folder), changes))
    elif member is None:
        path.write_bytes(mutated(original.read_bytes(), changes))
    else:
        with zipfile.ZipFile(original) as archive, zipfile.ZipFile(path, "w") as target:
            for name in archive.namelist():
                content = archive.read(name)
                target.writestr(name, mutated(content, changes) if name == member else content)
    try:
        looked_at(path)
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017  whatever the message, it is one line


def test_a_message_where_h5py_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"this needs h5py: pip install h5py$"):
        names(tmp_path / "m.keras")


# ---------------------------------------------------------------------------- Keras itself


@pytest.fixture(scope="module")
def keras():
    pytest.importorskip("h5py")
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "torch")
    return pytest.importorskip("keras")


def randomised(model, seed=0):
    rng = np.random.default_rng(seed)
    model.set_weights([0.5 * rng.standard_normal(v.shape) for v in model.get_weights()])
    return model


def double(params):
    return tuple(type(p)(*(None if v is None else v.astype("float64") for v in p)) for p in params)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5", ".h5"])
@pytest.mark.parametrize("go_backwards", [False, True])
def test_keras_itself(keras, tmp_path, suffix, go_backwards):
    """Save, read, run, with masks: rows of different lengths, outputs and final states."""
    given = keras.Input((None, 3))
    masked = keras.layers.Masking()(given)
    outputs = keras.layers.LSTM(
        4, return_sequences=not go_backwards, return_state=True, go_backwards=go_backwards, zero_output_for_mask=True,
        name="memory",
    )(masked)  # fmt: skip
    model, path = randomised(keras.Model(given, outputs)), tmp_path / f"model{suffix}"
    (model.save_weights if suffix == ".weights.h5" else model.save)(path)
    assert names(path) == ["lstm" if suffix == ".weights.h5" else "memory"]
    network, params = read(path)
    if suffix == ".weights.h5":  # they do not say which way
        network = LSTM(3, 4, reverse=go_backwards)
    assert network == LSTM(3, 4, reverse=go_backwards)
    lengths = [5, 2, 1]
    x = np.random.default_rng(1).standard_normal((3, 5, 3)).astype("float32")
    for row, length in zip(x, lengths, strict=True):
        row[length:] = 0
    y, h, c = (np.asarray(v) for v in model.predict(x, verbose=0))
    ours, state, _ = network.forward(double(params), x.astype("float64"), lengths=lengths)
    assert_close(h, state.h[0], like=h, steps=5)
    assert_close(c, state.c[0], like=c, steps=5)
    if not go_backwards:
        assert_close(y, ours, like=y, steps=5)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5", ".h5"])
def test_bidirectional_of_keras(keras, tmp_path, suffix):
    given = keras.Input((None, 3))
    masked = keras.layers.Masking()(given)
    inner = keras.layers.LSTM(4, return_sequences=True, zero_output_for_mask=True)
    model = randomised(keras.Model(given, keras.layers.Bidirectional(inner, name="both")(masked)))
    path = tmp_path / f"model{suffix}"
    (model.save_weights if suffix == ".weights.h5" else model.save)(path)
    assert names(path) == ["bidirectional" if suffix == ".weights.h5" else "both"]
    network, params = read(path)
    assert network == LSTM(3, 4, bidirectional=True)
    lengths = [5, 2, 1]
    x = np.random.default_rng(1).standard_normal((3, 5, 3)).astype("float32")
    for row, length in zip(x, lengths, strict=True):
        row[length:] = 0
    y = np.asarray(model.predict(x, verbose=0))
    ours, _, _ = network.forward(double(params), x.astype("float64"), lengths=lengths)
    assert_close(y, ours, like=y, steps=5)


def test_to_keras_and_from_keras_with_keras(keras):
    """set_weights takes what to_keras gives, from_keras what get_weights gives; two layers, and activations."""
    hard = LSTM(3, 4, num_layers=2, bidirectional=True, activations=(HARD, "Softsign", "Softsign"))
    params = different(hard)
    options = {"return_sequences": True, "recurrent_activation": "hard_sigmoid", "activation": "softsign"}
    layers = [keras.layers.Bidirectional(keras.layers.LSTM(4, **options)) for _ in range(2)]
    model = keras.Sequential([keras.Input((None, 3)), *layers])
    for layer, arrays in zip(layers, to_keras(hard, params), strict=True):
        layer.set_weights(arrays)
    found, back = from_keras(*(layer.get_weights() for layer in layers), activations=hard.activations)
    assert found == hard
    same(params, back)
    x = np.random.default_rng(1).standard_normal((3, 5, 3)).astype("float32")
    y = np.asarray(model.predict(x, verbose=0))
    assert_close(y, hard.forward(double(params), x.astype("float64"))[0], like=y, steps=10)


@pytest.mark.parametrize(
    "network", [LSTM(3, 4, num_layers=2), LSTM(3, 4, num_layers=3, bidirectional=True, bias=False)]
)
def test_keras_loads_what_is_written(keras, network, tmp_path):
    params, path = different(network), tmp_path / "model.weights.h5"
    weights.write(path, network, params)
    layers = []
    for _ in range(network.num_layers):
        inner = keras.layers.LSTM(4, return_sequences=True, use_bias=network.bias)
        layers += [keras.layers.Bidirectional(inner) if network.bidirectional else inner, keras.layers.Dropout(0.5)]
    model = keras.Sequential([keras.Input((None, 3)), *layers])
    model.load_weights(path)
    x = np.random.default_rng(1).standard_normal((3, 5, 3)).astype("float32")
    y = np.asarray(model.predict(x, verbose=0))
    assert_close(y, network.forward(double(params), x.astype("float64"))[0], like=y, steps=15)


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "relu", "linear", "elu", "softsign", "softplus", "hard_sigmoid"])
def test_activations_of_keras(keras, saved, name):
    """The functions by Keras's names are Keras's functions."""
    network, _ = read(saved(lstm(activation=name)))
    z = np.linspace(-4, 4, 41, dtype="float32")
    theirs = keras.ops.convert_to_numpy(getattr(keras.activations, name)(keras.ops.convert_to_tensor(z)))
    assert_close(theirs, network.cell.activations[1](z.astype("float64"), np), like=theirs)
