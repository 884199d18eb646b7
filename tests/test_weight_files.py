"""Files of weights: every bit comes back; whatever is damaged or hostile is refused in one line, with little memory."""

import io
import json
import os
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from problems import same_bits
from test_weights import D, H, parameters_of, same

from lstm_xp import LSTM, State, files, parameters, weights
from lstm_xp.files import write_atomically
from lstm_xp.libraries import to_numpy
from lstm_xp.weights import containers, store

pytest.importorskip("safetensors")

for name in ("lstm-xp", "lstm-xp-train", "pytorch"):
    weights.module_of(name)  # imported here, so that their memory is not counted below

SUFFIXES = containers.SUFFIXES
suffixes = pytest.mark.parametrize("suffix", SUFFIXES)

NETWORKS = [
    LSTM(D, H),
    LSTM(D, H, 3, bidirectional=True, proj_size=2, time_major=True, dropout=0.25, forget_bias=0.5),
    LSTM(D, H, 2, reverse=True, bias=False, peepholes=True, coupled=True, clip=3.0),
    LSTM(D, H, layer_norm=True, zoneout_h=0.1, zoneout_c=0.2, recurrent_dropout=0.3),
    LSTM(D, H, activations=(("HardSigmoid", 0.3, 0.4), "Softsign", "Tanh")),
    LSTM(D, H, precision="tf32"),
]


def saved(path, network=NETWORKS[1], state=None):
    weights.save(path, network, parameters_of(network), state=state)
    return path


def refused(path, *calls, match=None):
    """That each call refuses the file by a ValueError of one line that names it, in little memory."""
    for call in calls or (weights.load, weights.load_state, weights.read, weights.names, weights.format_of):
        tracemalloc.start()
        with pytest.raises(ValueError, match=match) as caught:
            call(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)
        assert peak < 4 << 20


# What is saved comes back


@suffixes
@pytest.mark.parametrize("network", NETWORKS, ids=range(len(NETWORKS)))
def test_a_network_comes_back(tmp_path, suffix, network):
    path = saved(tmp_path / f"network{suffix}", network)
    again, params = weights.load(path)
    assert again == network
    same(params, parameters_of(network))
    assert weights.load_state(path) is None
    assert weights.format_of(path) == "lstm-xp"
    assert weights.names(path) == [""]
    same(weights.read(path)[1], params)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@suffixes
def test_every_dtype_comes_back(tmp_path, suffix, dtype):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    numpy_dtype = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    network, path = LSTM(D, H), tmp_path / f"network{suffix}"
    params = parameters_of(network, asarray=lambda v: v.astype(numpy_dtype))
    if (suffix, dtype) == (".npz", "bfloat16"):
        with pytest.raises(ValueError, match=r"bfloat16, which \.npz lacks: write \.safetensors"):
            weights.save(path, network, params)
        assert not path.exists()
        return
    weights.save(path, network, params)
    found = weights.load(path)[1]
    assert found[0].Wx.dtype == numpy_dtype
    same(found, params)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_arrays_of_every_library_are_saved(tmp_path, lib, dtype):
    if dtype not in lib.dtypes():
        pytest.skip(f"{lib.name} has no {dtype}")
    network = LSTM(D, H, bidirectional=True)
    params = parameters_of(network, asarray=lambda v: lib.asarray(v, dtype))
    weights.save(tmp_path / "network.safetensors", network, params)
    for p, q in zip(weights.load(tmp_path / "network.safetensors")[1], params, strict=True):
        assert p.Wx.dtype.name == dtype
        assert np.array_equal(p.Wx.astype("float32"), to_numpy(q.Wx))


@suffixes
def test_a_state_comes_back(tmp_path, suffix):
    network, N = NETWORKS[1], 5
    rng = np.random.default_rng(3)
    state = State(rng.standard_normal((6, N, 2)), rng.standard_normal((6, N, H)))
    path = saved(tmp_path / f"network{suffix}", network, state)
    found = weights.load_state(path)
    assert isinstance(found, State)
    assert all(map(same_bits, found, state))
    same(weights.load(path)[1], parameters_of(network))


def test_arrays_in_any_order_of_memory_are_saved(tmp_path):
    network = LSTM(D, H)
    params = parameters_of(network, asarray=lambda v: np.asfortranarray(np.repeat(v, 2, axis=0))[::2])
    for suffix in SUFFIXES:
        weights.save(tmp_path / f"a{suffix}", network, params)
        same(weights.load(tmp_path / f"a{suffix}")[1], parameters_of(network))


@suffixes
def test_pytorch_names_in_a_file(tmp_path, suffix):
    network, path = NETWORKS[1], tmp_path / f"torch{suffix}"
    network = LSTM(D, H, 2, bidirectional=True)
    weights.write(path, network, parameters_of(network), format="pytorch")
    assert weights.format_of(path) == "pytorch"
    assert "weight_hh_l1_reverse" in containers.entries(path)
    again, params = weights.read(path)
    assert again == network
    same(params, parameters_of(network))


@suffixes
def test_only_the_lstm_asked_for_is_read(tmp_path, suffix):
    """Beside it there may be arrays of any size and dtype."""
    network, other = LSTM(D, H), LSTM(D, H, 2)
    arrays = weights.to_pytorch(network, parameters_of(network), prefix="encoder.lstm")
    arrays |= weights.to_pytorch(other, parameters_of(other), prefix="decoder")
    arrays |= {
        "embedding.weight": np.zeros((1 << 12, 1 << 8)),
        "n": np.arange(3),
        "gru.weight_hh_l0": np.ones((6, 2)),
    }
    path = tmp_path / f"model{suffix}"
    containers.write(path, arrays)
    assert sorted(weights.names(path)) == ["decoder", "encoder.lstm"]
    tracemalloc.start()
    found, params = weights.read(path, "decoder")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == other
    same(params, parameters_of(other))
    assert peak < 2 << 20  # the embedding takes 8 MiB
    refused(path, weights.read, match="2 LSTMs found, choose one by name: '.*', '.*'")
    refused(path, lambda p: weights.read(p, "gru"), match="no LSTM is called 'gru'")


# Writing


@suffixes
def test_nothing_is_overwritten_unless_told(tmp_path, suffix):
    path = saved(tmp_path / f"network{suffix}")
    before = path.read_bytes()
    other = LSTM(D, H)
    for write in (weights.save, weights.write):
        with pytest.raises(FileExistsError, match="exists already"):
            write(path, other, parameters_of(other))
        assert path.read_bytes() == before
    weights.save(path, other, parameters_of(other), overwrite=True)
    assert weights.load(path)[0] == other
    weights.write(path, NETWORKS[1], parameters_of(NETWORKS[1]), overwrite=True)
    assert path.read_bytes() == before


@suffixes
@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_file_is_the_old_one_or_the_new_one(tmp_path, monkeypatch, suffix, function):
    path = saved(tmp_path / f"network{suffix}")
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, function, fail)
    other = LSTM(D, H)
    with pytest.raises(OSError, match="No space"):
        weights.save(path, other, parameters_of(other), overwrite=True)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_where_nothing_can_be_written(tmp_path, monkeypatch):
    """The message has the name that was asked for, and says what is wrong with the folder."""
    file, folder = saved(tmp_path / "file.npz"), tmp_path / "folder.npz"
    folder.mkdir()
    network = NETWORKS[1]

    def refused_with(path, kind, reason):
        for write in (weights.save, weights.write):
            for overwrite in (False, True):
                with pytest.raises(kind) as caught:
                    write(path, network, parameters_of(network), overwrite=overwrite)
                assert (caught.value.filename, caught.value.strerror) == (str(path), reason)
        with pytest.raises(kind) as caught:
            write_atomically(path, b"")
        assert (caught.value.filename, caught.value.strerror) == (str(path), reason)

    missing, inside = tmp_path / "no" / "a.npz", file / "a.npz"
    refused_with(folder, IsADirectoryError, "is a directory: name a file")
    refused_with(missing, FileNotFoundError, f"the folder {missing.parent} does not exist: make it, or choose another")
    refused_with(inside, NotADirectoryError, f"the folder {file} is none: choose another")

    def forbidden(path, mode):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(files, "open", forbidden, raising=False)
    refused_with(
        folder / "a.npz",
        PermissionError,
        f"the folder {folder} cannot be written into (Permission denied): choose another",
    )
    assert sorted(os.listdir(tmp_path)) == ["file.npz", "folder.npz"]
    assert os.listdir(folder) == []


def test_what_is_not_the_network_s_is_not_saved(tmp_path):
    network, params = LSTM(D, H), parameters_of(LSTM(D, H))
    path = tmp_path / "network.npz"
    for directions, state, message in (
        (parameters_of(LSTM(D, H + 1)), None, r"save: Wx of params\[0\] .* must have shape"),
        (params, (np.zeros((2, 1, H)), np.zeros((1, 1, H))), "save: h of state must have shape"),
        (params, np.zeros((1, 1, H)), "save: state must be a pair"),
        (params, (None, np.zeros((1, 1, H))), "save: state must have both"),
        ([params[0]._replace(b=params[0].b.astype("float32"))], None, "share one dtype"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            weights.save(path, network, directions, state=state)
    with pytest.raises(ValueError, match=r"the suffix must be one of \.safetensors, \.npz"):
        weights.save(tmp_path / "network.txt", network, params)
    assert os.listdir(tmp_path) == []


# Damaged and hostile files


def safetensors_bytes(header, data=b""):
    """A safetensors file of a header: a text, or a dict."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def f32(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


HUGE = 1 << 60
SAFETENSORS = {
    "empty": (b"", "cut short"),
    "seven bytes": (b"\0" * 7, "cut short"),
    "a header of 2^60 bytes": (HUGE.to_bytes(8, "little") + b"{}", f"claims {HUGE} bytes, the file has 10"),
    "a header of 2^64-1 bytes": (b"\xff" * 8 + b"{}", "claims 18446744073709551615 bytes"),
    "a header longer than the file": (safetensors_bytes({})[:-1], "cut short"),
    "no JSON": (safetensors_bytes(b"not"), "JSON of its header or metadata is not valid"),
    "no object": (safetensors_bytes(b"[]"), "no JSON object"),
    "no UTF-8": (safetensors_bytes(b'{"\xff": 1}'), "no UTF-8"),
    "nested without end": (safetensors_bytes(b'{"a":' * 200_000), "JSON of its header"),
    "a long number": (safetensors_bytes(b'{"a": ' + b"9" * 10_000 + b"}"), "JSON of its header"),
    "one name twice": (
        safetensors_bytes(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
                          b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"\0" * 4),
        "one name twice",
    ),
    "an array of 2^60 bytes": (safetensors_bytes({"a": f32((HUGE // 4,), 0, HUGE)}), f"take {HUGE} bytes, the"),
    "a shape that overflows": (safetensors_bytes({"a": f32((1 << 40, 1 << 40), 0, 4)}, b"\0" * 4), "but has 4 bytes"),
    "more shape than bytes": (safetensors_bytes({"a": f32((2,), 0, 4)}, b"\0" * 4), "but has 4 bytes"),
    "bytes left over": (safetensors_bytes({"a": f32((1,), 0, 4)}, b"\0" * 5), "take 4 bytes, the file has 5"),
    "cut short": (safetensors_bytes({"a": f32((1,), 0, 4)}, b"\0" * 3), "take 4 bytes, the file has 3"),
    "overlapping arrays": (
        safetensors_bytes({"a": f32((2,), 0, 8), "b": f32((1,), 4, 8)}, b"\0" * 8), "overlap or leave gaps"
    ),
    "the same bytes twice": (
        safetensors_bytes({"a": f32((1,), 0, 4), "b": f32((1,), 0, 4)}, b"\0" * 4), "overlap or leave gaps"
    ),
    "a gap": (safetensors_bytes({"a": f32((1,), 4, 8)}, b"\0" * 8), "overlap or leave gaps"),
    "negative sizes": (safetensors_bytes({"a": f32((-1,), 0, 4)}, b"\0" * 4), "no valid dtype, shape and offsets"),
    "sizes that are no integers": (safetensors_bytes({"a": f32((1.0,), 0, 4)}, b"\0" * 4), "no valid dtype"),
    "a truth for a size": (safetensors_bytes({"a": f32((True,), 0, 4)}, b"\0" * 4), "no valid dtype"),
    "a shape without end": (safetensors_bytes({"a": f32((HUGE,) * 10_000, 0, 4)}, b"\0" * 4), "no valid dtype"),
    "a name of control characters": (safetensors_bytes({"\n\x1b[2J": f32((1,), 0, 4)}, b"\0" * 4), "must be printable"),
    "a name without end": (safetensors_bytes({"a" * 10_000: f32((1,), 0, 4)}, b"\0" * 4), "500 letters at most"),
    "an unknown dtype": (safetensors_bytes({"a": f32((1,), 0, 4, "F4")}, b"\0" * 4), "no valid dtype"),
    "a list for a dtype": (safetensors_bytes({"a": f32((1,), 0, 4, [])}, b"\0" * 4), "no valid dtype"),
    "a text for an entry": (safetensors_bytes({"a": "b"}), "no valid dtype"),
    "metadata that are no texts": (safetensors_bytes({"__metadata__": {"a": 1}}), "metadata are not texts"),
    "metadata that are no object": (safetensors_bytes({"__metadata__": []}), "metadata are not texts"),
    "metadata with NaN": (safetensors_bytes({"__metadata__": {"lstm_xp": '{"format": NaN}'}}), "the number NaN"),
    "metadata with an infinity": (safetensors_bytes({"__metadata__": {"lstm_xp": '{"a": 1e999}'}}), "the number 1e999"),
    "metadata that are no JSON": (safetensors_bytes({"__metadata__": {"lstm_xp": "{"}}), "JSON of its header or meta"),
}  # fmt: skip


@pytest.mark.parametrize("case", SAFETENSORS)
def test_safetensors_that_cannot_be(tmp_path, case):
    data, message = SAFETENSORS[case]
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(data)
    refused(path, match=message)


def test_a_header_of_more_than_the_limit(tmp_path):
    path = tmp_path / "hostile.safetensors"
    with open(path, "wb") as file:  # sparse: it takes no room on the disk
        file.write((1 << 40).to_bytes(8, "little"))
        file.truncate((1 << 40) + 8)
    refused(path, match=f"the most that is read is {containers.HEADER_LIMIT}")


def npy(array=None, header=None, version=1, data=b""):
    """An array as .npy, or a header of one's own."""
    if header is None:
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=True)
        return buffer.getvalue()
    header = header.encode("latin1")
    size = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + size + header + data


def npz(members, compression=zipfile.ZIP_STORED):
    """A zip file of (name, bytes)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def npy_header(shape, descr="'<f4'"):
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n"


ZERO = npy(np.zeros(2, np.float32))
NPZ = {
    "empty": (b"", "damaged, or no .npz file"),
    "no zip file": (b"PK\3\4" + b"\0" * 100, "damaged, or no .npz file"),
    "a pickle": (pickle.dumps({"a": 1}), "damaged, or no .npz file"),
    "a pickled array": (npz([("a.npy", npy(np.array([{}, None], dtype=object)))]), "nothing is unpickled"),
    "no array": (npz([("a.txt", b"hello")]), "'a.txt', which is no array"),
    "a pickle of PyTorch in a zip file": (npz([("archive/data.pkl", b"\x80\x02.")]), "which is no array"),
    "a path that escapes": (npz([("../../a.npy", ZERO)]), "which is no array"),
    "an absolute path": (npz([("/etc/a.npy", ZERO)]), "which is no array"),
    "a path of Windows": (npz([("..\\a.npy", ZERO)]), "which is no array"),
    "a name of control characters": (npz([("a\n\x1b[2J.npy", ZERO)]), "must be printable"),
    "a zip bomb": (npz([("a.npy", npy(np.zeros(8 << 20)))], zipfile.ZIP_DEFLATED), "it would inflate to 67108"),
    "an array of 2^60 elements": (npz([("a.npy", npy(header=npy_header((HUGE,))))]), f"claims {4 * HUGE} bytes .* 0"),
    "a shape that overflows": (npz([("a.npy", npy(header=npy_header((1 << 40, 1 << 40))))]), "a claims .* there are 0"),
    "negative sizes": (npz([("a.npy", npy(header=npy_header((-1,))))]), "claims the shape"),
    "a truth for a size": (npz([("a.npy", npy(header=npy_header((True,)), data=b"\0" * 4))]), "claims the shape"),
    "more shape than bytes": (npz([("a.npy", npy(header=npy_header((2,)), data=b"\0" * 4))]), "claims 8 bytes .* 4"),
    "more bytes than shape": (npz([("a.npy", npy(header=npy_header((2,)), data=b"\0" * 9))]), "claims 8 bytes .* 9"),
    "no dictionary": (npz([("a.npy", npy(header="[1, 2]"))]), "damaged, or no .npz file"),
    "code": (npz([("a.npy", npy(header="__import__('os').getcwd()"))]), "damaged, or no .npz file"),
    "nested without end": (npz([("a.npy", npy(header="(" * 2000))]), "no valid header|damaged"),
    "a header of 4 GiB": (npz([("a.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}")]), "damaged, or no .npz file"),
    "a version of the future": (npz([("a.npy", b"\x93NUMPY\x09\x00" + b"\0" * 9)]), "damaged|version"),
    "version 3": (npz([("a.npy", b"\x93NUMPY\x03\x00" + b"\0" * 9)]), r"version \(3, 0\)"),
    "no .npy": (npz([("a.npy", b"hello")]), "damaged, or no .npz file"),
    "records": (npz([("a.npy", npy(header=npy_header((1,), "[('a', '<f4')]"), data=b"\0" * 4))]), "only numbers are"),
    "dates": (npz([("a.npy", npy(header=npy_header((1,), "'<M8[s]'"), data=b"\0" * 8))]), "only numbers are read"),
    "an unusual compression": (npz([("a.npy", ZERO)], zipfile.ZIP_BZIP2), "compressed by an unusual method"),
    "metadata that are numbers": (npz([("lstm_xp.npy", ZERO)]), "lstm_xp is no text"),
    "metadata that are no JSON": (npz([("lstm_xp.npy", npy(np.array("{")))]), "JSON of its header or metadata"),
    "metadata with NaN": (npz([("lstm_xp.npy", npy(np.array('{"a": NaN}')))]), "the number NaN"),
    "metadata of no letters": (
        npz([("lstm_xp.npy", npy(header=npy_header((), "'<U1'"), data=b"\xff\xff\xff\x7f"))]), "damaged, or no"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NPZ)
def test_npz_that_cannot_be(tmp_path, case):
    data, message = NPZ[case]
    path = tmp_path / "hostile.npz"
    path.write_bytes(data)
    refused(path, match=message)


def test_arrays_are_read_without_pickle_even_if_headers_were_not_checked():
    data = npz([("a.npy", npy(np.array([{}, None], dtype=object)))])
    with zipfile.ZipFile(io.BytesIO(data)) as archive, pytest.raises(ValueError, match="allow_pickle=False"):
        containers._npy(archive, "a")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_npz_with_one_name_twice(tmp_path):
    path = tmp_path / "hostile.npz"
    path.write_bytes(npz([("a.npy", ZERO), ("a.npy", ZERO)]))
    refused(path, match="it holds a twice")


def test_npz_that_lies_about_sizes(tmp_path):
    """The sizes in the directory of the zip file are claims, too."""
    whole = npz([("a.npy", npy(np.zeros(4)))])
    at = whole.index(b"PK\1\2")
    path = tmp_path / "hostile.npz"
    for offset, width, value, message in (
        (20, "<I", 1 << 31, "a claims 160 bytes and 2147483648"),
        (24, "<I", 1 << 31, "a claims 2147483648 bytes and 160"),
        (24, "<I", 10, "a claims 10 bytes and 160"),
        (8, "<H", 1, "a is encrypted"),
    ):
        end = at + offset + struct.calcsize(width)
        path.write_bytes(whole[: at + offset] + struct.pack(width, value) + whole[end:])
        refused(path, match=message)


def test_damaged_numbers_are_found_out(tmp_path):
    """.npz has check sums."""
    path = saved(tmp_path / "network.npz")
    data = bytearray(path.read_bytes())
    data[data.index(parameters_of(NETWORKS[1])[0].Wh.tobytes())] ^= 1
    path.write_bytes(data)
    refused(path, weights.load, weights.read, match="damaged")


# Files of our own that do not hold together


def rewritten(path, *, arrays=None, about=None):
    """Our own file with changes: to its arrays by name (None takes one away), and to its metadata."""
    entries, metadata = containers.read(path), containers.metadata(path)
    entries = {name: v for name, v in (entries | (arrays or {})).items() if v is not None}
    about = metadata | (about or {})
    path.unlink()
    containers.write(path, entries, about)
    return path


def settings_of(**changes):
    return {"network": {"input_size": D, "hidden_size": H, **changes}}


INTEGERS = {
    f"layer0.forward.{k}": v.astype("int32") for k, v in parameters_of(LSTM(D, H))[0]._asdict().items() if v is not None
}
OWN = {
    "another version": ({"about": {"version": 2}}, "its version is 2; this release reads 1"),
    "no version": ({"about": {"version": None}}, "its version is None"),
    "no configuration": ({"about": {"network": None}}, "its configuration is none of a network"),
    "an unknown setting": ({"about": settings_of(magic=1)}, "its configuration is none of a network"),
    "an engine": ({"about": settings_of(engine="array_api")}, "its configuration is none of a network"),
    "a wrong setting": ({"about": settings_of(dropout=2)}, "none of a network: LSTM: dropout must lie"),
    "a text for a size": ({"about": settings_of(num_layers="2")}, "num_layers must be an integer"),
    "a list for a setting": ({"about": settings_of(precision=["ieee"])}, "none of a network"),
    "activations that are none": ({"about": settings_of(activations=5)}, "none of a network"),
    "an activation in lists": ({"about": settings_of(activations=[[["a"]], "Tanh", "Tanh"])}, "none of a network"),
    "an immense number": ({"about": settings_of(forget_bias=10**400)}, "none of a network"),
    "a million layers": ({"about": settings_of(num_layers=10**6)}, "has 1000000 layers, more than it has arrays for"),
    "2^60 cells": ({"about": settings_of(hidden_size=HUGE)}, r"layer0.forward.Wx has shape \(3, 16\); its config"),
    "a missing array": ({"arrays": {"layer0.forward.Wh": None}}, r"layer0.forward.Wh is missing; .* = \(4, 16\)"),
    "an extra array": ({"arrays": {"layer0.forward.Wp": np.zeros((4, 2))}}, "layer0.forward.Wp is no array of the"),
    "a misshapen array": ({"arrays": {"layer0.forward.b": np.zeros(15)}}, r"b has shape \(15,\); .* = \(16,\)"),
    "two dtypes": ({"arrays": {"layer0.forward.b": np.zeros(16, np.float32)}}, "b is float32, .* is float64"),
    "integers": ({"arrays": INTEGERS}, "is (I32|int32); it must be float64"),
}  # fmt: skip


@suffixes
@pytest.mark.parametrize("case", OWN)
def test_our_own_files_that_do_not_hold_together(tmp_path, suffix, case):
    changes, message = OWN[case]
    path = rewritten(saved(tmp_path / f"network{suffix}", LSTM(D, H)), **changes)
    refused(path, weights.load, weights.read, match=message)


@suffixes
def test_a_state_that_does_not_fit(tmp_path, suffix):
    for k, (h, c, message) in enumerate((
        (np.zeros((2, 1, H)), np.zeros((1, 1, H)), r"state.h has shape \(2, 1, 4\)"),
        (np.zeros((1, 2, H)), np.zeros((1, 3, H)), r"state.h has shape \(1, 2, 4\)|state.c has shape \(1, 3, 4\)"),
        (np.zeros(3), np.zeros((1, 1, H)), "state.[hc] has shape"),
        (None, np.zeros((1, 1, H)), "state.h is missing"),
    )):  # fmt: skip
        path = saved(tmp_path / f"network{k}{suffix}", LSTM(D, H))
        rewritten(path, arrays={"state.h": h, "state.c": c})
        refused(path, weights.load_state, match=message)


@suffixes
def test_a_file_of_nothing(tmp_path, suffix):
    path = tmp_path / f"nothing{suffix}"
    containers.write(path, {})
    assert weights.names(path) == []
    refused(path, weights.load, match="its metadata do not say")
    refused(path, weights.read, match="no LSTM found")


def test_other_files_have_their_own_errors(tmp_path):
    for name in ("model.pt", "model.PTH", "pytorch_model.bin"):
        path = tmp_path / name
        with pytest.raises(ValueError, match="a pickle can run any code, so it is never read") as caught:
            weights.read(path)
        *_, first, second = str(caught.value).splitlines()
        compile(f"{first.strip()}\n{second.strip()}", name, "exec")
        assert repr(str(path)) in second
    for path in (tmp_path / "model.txt", tmp_path / "model"):
        with pytest.raises(ValueError, match="the suffix must be one of"):
            weights.read(path)
    for suffix in SUFFIXES:
        with pytest.raises(FileNotFoundError):
            weights.read(tmp_path / f"nowhere{suffix}")
    with pytest.raises(ValueError, match="the format must be one of lstm-xp, "):
        weights.read(tmp_path / "a.npz", format="caffe")


def test_the_suffix_is_one_of_the_format(tmp_path):
    """Whatever a file is called, it can be read again."""
    network = LSTM(D, H)
    for format, suffix, rule in (
        ("onnx", ".npz", "must be .onnx for the format onnx; got .npz."),
        ("onnx", ".pt", "must be .onnx for the format onnx; got .pt."),
        ("onnx", "", "must be .onnx for the format onnx; got none."),
        ("keras", ".npz", "must be one of .keras, .h5 for the format keras; got .npz."),
        ("pytorch", ".onnx", "must be one of .safetensors, .npz for the format pytorch; got .onnx."),
        ("lstm-xp", ".txt", "must be one of .safetensors, .npz for the format lstm-xp; got .txt."),
    ):
        path = tmp_path / f"network{suffix}"
        with pytest.raises(ValueError) as caught:
            weights.write(path, network, parameters_of(network), format=format)
        assert str(caught.value) == f"{path}: the suffix {rule}"
    assert os.listdir(tmp_path) == []


def test_pickles_are_not_written(tmp_path):
    """It is said what PyTorch reads instead."""
    network = LSTM(D, H)
    for name in ("model.pt", "model.PTH", "pytorch_model.bin"):
        with pytest.raises(ValueError, match="pickles are never written") as caught:
            weights.write(tmp_path / name, network, parameters_of(network))
        assert str(caught.value).endswith("write that, in the format pytorch.")
        assert "never read" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_the_two_lines_for_pickles_do_what_they_say(tmp_path):
    torch = pytest.importorskip("torch")
    module, path = torch.nn.LSTM(D, H), tmp_path / "model.pt"
    torch.save(module.state_dict(), path)
    with pytest.raises(ValueError, match="a pickle") as caught:
        weights.read(path)
    exec("\n".join(line.strip() for line in str(caught.value).splitlines()[1:]))
    assert weights.read(path.with_suffix(".safetensors"))[0] == LSTM(D, H)


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    path = saved(tmp_path / "network.safetensors")
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    with pytest.raises(ImportError, match=r"this needs safetensors: pip install safetensors$"):
        weights.load(path)


# Fuzz


class Originals(NamedTuple):
    """Files by name, as bytes, and a folder to put others into."""

    folder: Path
    files: dict

    def __repr__(self):
        return f"Originals({self.folder})"


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Sound files of every kind."""
    folder = tmp_path_factory.mktemp("originals")
    files = {}
    for suffix in SUFFIXES:
        network = LSTM(2, 3, 2, peepholes=True)
        state = State(np.ones((2, 1, 3)), np.ones((2, 1, 3)))
        path = saved(folder / f"ours{suffix}", network, state)
        files[path.name] = path.read_bytes()
        path = folder / f"torch{suffix}"
        network = LSTM(2, 3, bidirectional=True)
        weights.write(path, network, parameters_of(network), format="pytorch")
        files[path.name] = path.read_bytes()
    return Originals(folder, files)


mutations = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), st.floats(0, 1), st.integers(1, 255)),
        st.tuples(st.just("head"), st.integers(0, 400), st.integers(0, 255)),
        st.tuples(st.just("tail"), st.integers(0, 1500), st.integers(0, 255)),
        st.tuples(st.just("cut"), st.floats(0, 1), st.just(0)),
        st.tuples(st.just("length"), st.integers(0, 2**64 - 1), st.just(0)),
        st.tuples(st.just("number"), st.integers(0, 60), st.sampled_from([b"0", b"-1", b"1e9", b"99999999999", b"[]"])),
        st.tuples(st.just("splice"), st.floats(0, 1), st.floats(0, 1)),
        st.tuples(st.just("repeat"), st.floats(0, 1), st.integers(1, 64)),
    ),
    min_size=1,
    max_size=4,
)  # fmt: skip


def mutated(data, other, changes):
    """Bytes with changes: flipped, set, cut off, spliced with another file; a length or a number of the header."""
    data = bytearray(data)
    for kind, where, what in changes:
        place = int(where * max(len(data) - 1, 0)) if isinstance(where, float) else 0
        if kind == "flip" and data:
            data[place] ^= what
        elif kind == "head" and where < len(data):
            data[where] = what
        elif kind == "tail" and where < len(data):
            data[len(data) - 1 - where] = what
        elif kind == "cut":
            data = data[:place]
        elif kind == "length":
            data[:8] = where.to_bytes(8, "little")
        elif kind == "number":
            digits = [k for k in range(8, min(len(data), 4000)) if chr(data[k]).isdigit()]
            if digits:
                k = digits[where % len(digits)]
                data[k : k + 1] = what
        elif kind == "splice":
            data = data[:place] + other[int(what * len(other)) :]
        elif kind == "repeat":
            data = data[:place] + data[place : place + what] + data[place:]
    return bytes(data)


def peak_memory(function):
    """Bytes that a call takes at most: the least of three, for imports and other threads count in one of them."""
    peaks = []
    for _ in range(3):
        tracemalloc.start()
        try:
            function()
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    return min(peaks)


@pytest.mark.parametrize("name", [f"{kind}{suffix}" for kind in ("ours", "torch") for suffix in SUFFIXES])
@example(changes=[("length", 1 << 60, 0)], other=0)
@given(changes=mutations, other=st.integers(0, 3))
@settings(max_examples=300, deadline=None, derandomize=True, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
def test_mutated_files_are_valid_or_refused(originals, name, changes, other):
    """Something valid is read, or a ValueError of one line raised; no more memory is taken than a small file needs."""
    folder, files = originals.folder, originals.files
    path = folder / f"mutated-{name}"
    path.write_bytes(mutated(files[name], list(files.values())[other], changes))

    def attempt():
        try:
            found = [weights.read(path, each) for each in weights.names(path)]
            return found, weights.load_state(path) if store.recognises(path) else None, str(path)
        except ValueError as error:
            return [], None, str(error)

    found, state, message = attempt()
    assert message.startswith((str(path), "from_pytorch: "))
    assert "\n" not in message
    assert peak_memory(attempt) < 4 << 20
    for network, params in found:
        parameters.check_parameters("test", network, params)
        if state is not None:
            parameters.check_state("test", network, state, state.h.shape[1])
