"""Keras's files: where the weights of LSTM layers lie in them, and what the configuration says of each layer.

    .keras          zip of config.json, metadata.json and model.weights.h5
    .weights.h5     layers/lstm/cell/vars/{0,1,2}, layers/bidirectional/{forward,backward}_layer/cell/vars/{0,1,2};
                    nested models: layers/functional/layers/lstm/...; no configuration
    .h5 (Keras 2)   [model_weights/]lstm/lstm/lstm_cell/{kernel,recurrent_kernel,bias}[:0]; model_config in an attribute

Files are read, never unpacked to disk, and no layer is built: nothing in them can run. What a file claims must agree
with its size before memory is taken; links and data in other files are refused. Texts of variable length, such as
model_config, are not read by the HDF5 library, which damaged ones can crash, but out of the file's heap.

Reference: HDF5 File Format Specification 3.0, section III.E, "Global Heap".
"""

import io
import json
import math
import mmap
import re
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .containers import HEADER_LIMIT, INFLATION, SMALL, FileError
from .packages import package

_CELL = re.compile(r"(lstm_cell|cell)(_\d+)?")
_WAYS = ("forward_layer", "backward_layer")
# What reading a damaged file may raise, in h5py and zipfile.
_ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, EOFError,
           NotImplementedError, zipfile.BadZipFile, zlib.error)  # fmt: skip


class Layer(NamedTuple):
    """An LSTM or Bidirectional layer: groups of its weights, one for each direction, and what its settings are."""

    groups: tuple[str, ...]
    configs: tuple[dict, ...]
    bidirectional: bool
    merge_mode: str | None = "concat"
    missing: str = ""


class File:
    """A file of Keras, open to be read: its LSTM layers by name, in the order of the file."""

    def __init__(self, path):
        self.where, self.major, self.layers = str(path), 3, {}
        package("h5py")
        self._size = Path(path).stat().st_size
        try:
            self._open(path)
        except FileError:
            raise
        except _ERRORS as error:
            raise self._damaged(error) from None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def weights(self, group, names):
        """The arrays of a group by their names in Keras."""
        try:
            return {names[place]: self._array(name) for place, name in self._groups[group].items()}
        except FileError:
            raise
        except _ERRORS as error:
            raise self._damaged(error) from None

    def others(self, layers):
        """The names of all datasets that are none of the weights of these layers."""
        own = {name for layer in layers for group in layer.groups for name in self._groups[group].values()}
        return [name for name in self._datasets if name not in own]

    def _damaged(self, error):
        line = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        return FileError(f"{self.where}: damaged, or no file of Keras: {line}.")

    def _open(self, path):
        h5py, config = package("h5py"), None
        if zipfile.is_zipfile(path):
            data, config = self._unzipped(path)
            self._size = len(data)
            self._file = h5py.File(io.BytesIO(data), "r")
        else:
            self._file = h5py.File(path, "r")
        try:
            self._groups, self._datasets = _weights_in(self._file)
            legacy = any(place.startswith("model_weights/") or not place.endswith("/vars") for place in self._groups)
            if legacy and config is None:
                texts = [text for text in _texts_in(path) if len(text) <= HEADER_LIMIT]
                self.major = max((_major(text, 2) for text in texts), default=2)
                config = next(filter(_is_config, map(_parsed, texts)), None)
                if config is None and "model_config" in self._file.attrs:
                    raise FileError(f"{path}: its model_config is no text of variable length that is JSON.")
            self.layers = _layers(self._groups, config, legacy)
        except BaseException:
            self._file.close()
            raise

    def _unzipped(self, path):
        """The weights of a .keras file, and its configuration."""
        with zipfile.ZipFile(path) as archive:
            found = {}
            for member in archive.infolist():
                if member.filename in found:
                    raise FileError(f"{path}: it holds {member.filename!r} twice.")
                found[member.filename] = member
            most = {
                "metadata.json": HEADER_LIMIT,
                "config.json": HEADER_LIMIT,
                "model.weights.h5": max(SMALL, INFLATION * self._size),
            }
            for name, limit in most.items():
                if name not in found:
                    raise FileError(f"{path}: there is no {name} in it.")
                if found[name].file_size > limit:
                    raise FileError(f"{path}: {name} would inflate to {found[name].file_size} bytes; most is {limit}.")
                if found[name].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise FileError(f"{path}: {name} is compressed by an unusual method.")
            about, config = (self._json(name, archive.read(name)) for name in ("metadata.json", "config.json"))
            self.major = _major(about.get("keras_version"), 3)
            return archive.read("model.weights.h5"), config

    def _json(self, name, text):
        found = _parsed(text)
        if not isinstance(found, dict):
            raise FileError(f"{self.where}: {name} is no JSON object.")
        return found

    def _array(self, name):
        """A dataset, after its claims were checked."""
        dataset = self._file[name]
        shape, dtype = dataset.shape, dataset.dtype
        if dataset.external or dataset.is_virtual:
            raise FileError(f"{self.where}: {name} lies in another file: such data are not read.")
        if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
            raise FileError(f"{self.where}: {name} is {dtype}; it must be float16, float32 or float64.")
        claimed, held = math.prod(shape) * dtype.itemsize, dataset.id.get_storage_size()
        if held > self._size or claimed > (held if dataset.chunks is None else max(SMALL, INFLATION * held)):
            raise FileError(f"{self.where}: {name} claims {claimed} bytes for {dtype} {shape}; there are {held}.")
        return np.asarray(dataset[()]).astype(dtype.newbyteorder("="), copy=False)


def _weights_in(file):
    """Groups that hold the kernel and recurrent kernel of an LSTM, perhaps a bias, and the names of all datasets.

    The groups are group -> {place: dataset}.
    """
    h5py, groups, datasets = package("h5py"), {}, []

    def visit(name, item):
        # Links that lead elsewhere are not visited.
        group, _, last = name.rpartition("/")
        if isinstance(item, h5py.Dataset):
            datasets.append(name)
            legacy = {"kernel": 0, "recurrent_kernel": 1, "bias": 2}.get(last.partition(":")[0])
            place = {"0": 0, "1": 1, "2": 2}.get(last) if group.endswith("cell/vars") else legacy
            if place is not None:
                groups.setdefault(group, {})[place] = name

    file.visititems(visit)

    def is_lstm(held):
        shapes = [file[held[place]].shape if place in held else () for place in (0, 1)]
        return all(len(shape) == 2 for shape in shapes) and shapes[1][1] == 4 * shapes[1][0]

    return {group: held for group, held in groups.items() if is_lstm(held)}, datasets


def _texts_in(path):
    """All that lies in the global heap of an HDF5 file, where texts of variable length are kept."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:

        def number(place, size):
            return int.from_bytes(data[place : place + size], "little")

        start = data.find(b"GCOL")
        while start >= 0:
            place, end = start + 16, min(start + number(start + 8, 8), len(data))
            while place + 16 <= end and number(place, 2):
                size = number(place + 8, 8)
                if size > end - place - 16:
                    break
                yield data[place + 16 : place + 16 + size]
                place += 16 + -(-size // 8) * 8
            start = data.find(b"GCOL", max(place, start + 4))


def _parsed(text):
    """A JSON text; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_config(found):
    return isinstance(found, dict) and "class_name" in found and "config" in found


def _major(version, default):
    """2 or 3 from a version such as "3.5.0"; the default from anything else."""
    version = version.decode("latin-1") if isinstance(version, bytes) else str(version)
    return int(version[0]) if re.fullmatch(r"[23]\.\d+\.[\w.]+", version) else default


def _layers(groups, config, legacy):
    """The layers by name: their groups put together, and their configurations."""
    configured = {} if config is None else (_by_name(config) if legacy else _by_path(config))
    parts = {}
    for group in groups:
        steps = group.split("/")
        if not legacy:
            steps = steps[:-2]  # cell/vars
        elif _CELL.fullmatch(steps[-1]):
            steps = steps[:-1]
        way = 0
        if legacy and re.match(r"(forward|backward)_", steps[-1]) and len(steps) > 1:
            way, steps = int(steps[-1].startswith("backward_")) + 1, steps[:-1]
        elif not legacy and steps[-1] in _WAYS:
            way, steps = _WAYS.index(steps[-1]) + 1, steps[:-1]
        parts.setdefault("/".join(steps), {})[way] = group
    layers, order = {}, {key: number for number, key in enumerate(configured)}
    keys = {place: place.rpartition("/")[2] if legacy else place for place in parts}
    for place in sorted(parts, key=lambda place: order.get(keys[place], len(order))):
        ways, found = parts[place], configured.get(keys[place])
        name = found["name"] if found else place.rpartition("/")[2]
        layer = _layer(ways, found, config is not None)
        layers[name if name not in layers else place] = layer
    return layers


def _layer(ways, found, has_config):
    """A layer of these groups (0: alone, 1: forward, 2: backward) and this configuration."""
    both = sorted(ways) == [1, 2]
    groups = tuple(ways[way] for way in sorted(ways))
    missing = "" if both or sorted(ways) == [0] else "it has not one forward and one backward layer."
    if found is None:
        unknown = "the configuration of the model does not say what this layer computes." if has_config else ""
        assumed = ({"go_backwards": back, "return_sequences": True} for back in (False, True)[: len(groups)])
        return Layer(groups, tuple(assumed), both, missing=missing or unknown)
    if found["bidirectional"] != both:
        missing = missing or "its configuration and its weights disagree about directions."
    return Layer(groups, found["configs"], both, found["merge_mode"], missing)


def _described(entry):
    """What a serialised layer says, if it is an LSTM, an RNN of one LSTMCell, or Bidirectional of them; else None."""
    kind, config = entry.get("class_name"), entry.get("config")
    if not isinstance(config, dict) or not str(entry.get("module") or "keras").startswith(("keras", "tensorflow")):
        return None
    if kind == "LSTM":
        return {"bidirectional": False, "configs": (config,), "merge_mode": "concat", "name": config.get("name")}
    if kind == "RNN" and isinstance(config.get("cell"), dict) and config["cell"].get("class_name") == "LSTMCell":
        inner = config["cell"].get("config")
        merged = (inner if isinstance(inner, dict) else {}) | {k: v for k, v in config.items() if k != "cell"}
        return {"bidirectional": False, "configs": (merged,), "merge_mode": "concat", "name": config.get("name")}
    if kind == "Bidirectional" and isinstance(config.get("layer"), dict):
        forward = _described(config["layer"])
        if forward is None or forward["bidirectional"]:
            return None
        backward = _described(config["backward_layer"]) if isinstance(config.get("backward_layer"), dict) else None
        # Keras 2 leaves the backward layer out where it is the forward one turned round.
        turned = forward["configs"][0] | {"go_backwards": not forward["configs"][0].get("go_backwards")}
        second = turned if backward is None else backward["configs"][0]
        return {"bidirectional": True, "configs": (forward["configs"][0], second),
                "merge_mode": config.get("merge_mode", "concat"), "name": config.get("name")}  # fmt: skip
    return None


def _entries(config):
    """The serialised layers of a model, in order."""
    inner = config.get("config")
    held = inner.get("layers") if isinstance(inner, dict) else inner  # Keras 2.0: Sequential is a list
    return [entry for entry in held if isinstance(entry, dict)] if isinstance(held, list) else []


def _by_path(config, start="layers", depth=0):
    """Path in Keras 3's files -> what the configuration says: layers are counted by class within their model."""
    found, used = {}, {}
    for entry in _entries(config) if depth < 32 else []:
        base = _snake(str(entry.get("class_name")))
        used[base] = used.get(base, -1) + 1
        path = f"{start}/{base}" + (f"_{used[base]}" if used[base] else "")
        described = _described(entry)
        if described and isinstance(described["name"], str):
            found[path] = described
        found |= _by_path(entry, f"{path}/layers", depth + 1)
    return found


def _by_name(config, depth=0):
    """Name of a layer -> what the configuration says, in this model and those within it."""
    found = {}
    for entry in _entries(config) if depth < 32 else []:
        described = _described(entry)
        if described and isinstance(described["name"], str):
            found[described["name"]] = described
        found |= _by_name(entry, depth + 1)
    return found


def _snake(name):
    """A class name as Keras writes it in paths: LSTM -> lstm, TimeDistributed -> time_distributed."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
