"""What a reader needs of ONNX graphs: models from untrusted files, constants, LSTM nodes, and which of them are layers.

A model is parsed, never run. What a tensor claims must agree with the bytes that are there before memory is taken.
External data are read from files beside the model only.
"""

import math
from collections import Counter
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from .containers import FileError
from .packages import package

LIMIT = 1 << 31
"""Protocol buffers hold less than this many bytes."""

CHAIN = 64
"""Most nodes that are followed from one place to another."""

OWN = object()
"""A size that is copied from what is reshaped."""

INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
WEIGHTS = ("W", "R", "B", "P")
ATTRIBUTES = {
    "activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "input_forget", "layout",
}  # fmt: skip
# What weights may be made of: name in ONNX -> (dtype, field that holds the values, dtype of those there).
DTYPES = {
    "FLOAT": ("<f4", "float_data", "<f4"),
    "DOUBLE": ("<f8", "double_data", "<f8"),
    "FLOAT16": ("<f2", "int32_data", "<u2"),
}


class Graph:
    """The main graph of a model: constants by name, and LSTM nodes by name in the order of the file."""

    def __init__(self, source):
        proto = package("onnx").ModelProto
        self.where, self.folder, model = "model", None, source
        if not isinstance(source, proto):
            self.where, self.folder = str(source), Path(source).resolve().parent
            model = _parsed(Path(source), proto())
        _check_texts(self.where, model.graph)
        self.nodes = list(model.graph.node)
        self.outputs = {value.name for value in model.graph.output}
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.declared = {value.name: value.type.tensor_type.shape for value in model.graph.value_info}
        self.lstms, self.names, self.makers, self.readers = {}, {}, {}, {}
        self._taken = Counter()
        for node in self.nodes:
            if node.op_type == "Constant":
                for attribute in node.attribute:
                    if attribute.name == "value" and node.output:
                        self.constants[node.output[0]] = attribute.t
            elif node.op_type == "LSTM" and node.domain in ("", "ai.onnx"):
                name = self._new_name(node)
                self.lstms[name], self.names[id(node)] = node, name
            for name in node.output:
                self.makers[name] = node
            if node.op_type != "Shape":  # which reads sizes, and no numbers
                for name in node.input:
                    self.readers.setdefault(name, []).append(node)

    def _new_name(self, node):
        """The node's own name, or that of its first output; and a number where that is taken."""
        name = base = node.name or next(filter(None, node.output), "LSTM")
        while name in self.lstms:
            self._taken[base] += 1
            name = f"{base} ({self._taken[base] + 1})"
        return name

    def weights(self, name):
        """The arrays W, R, B and P of an LSTM node, those that it has."""
        node = self.lstms[name]
        held = {}
        for key, source in zip(INPUTS, node.input, strict=False):
            if key not in WEIGHTS or not source:
                continue
            tensor = self.constant(source)
            if tensor is None:
                made = f"made by {self.makers[source].op_type}" if source in self.makers else "an input of the model"
                raise FileError(
                    f"{self.where}: {key} of {name} must be a constant; {source!r} is {made}. "
                    "Export with constant folding, or fold the constants of the file first."
                )
            held[key] = self.array(f"{key} of {name}", tensor)
        return held

    def others(self, lstms):
        """The names of the floating initializers that are not weights of these LSTM nodes."""
        proto = package("onnx").TensorProto
        kinds = [getattr(proto, kind) for kind in DTYPES]
        given = (zip(INPUTS, self.lstms[name].input, strict=False) for name in lstms)
        own = [self.constant(source) for inputs in given for key, source in inputs if key in WEIGHTS]
        own = {tensor.name for tensor in own if tensor is not None}
        # What a node Constant makes is a part of the computation rather than a weight.
        return [name for name, tensor in self.constants.items()
                if name not in own and name not in self.makers and tensor.data_type in kinds]  # fmt: skip

    def attributes(self, name):
        """The attributes of an LSTM node, by name."""
        helper, found = package("onnx.helper"), {}
        for attribute in self.lstms[name].attribute:
            if attribute.name not in ATTRIBUTES or attribute.ref_attr_name:
                raise FileError(f"{self.where}: {name} has the attribute {attribute.name!r}, which LSTM does not have.")
            try:
                value = helper.get_attribute_value(attribute)
                single = isinstance(value, bytes | float | int)
                found[attribute.name] = _plain(value) if single else [_plain(v) for v in value]
            except (ValueError, AttributeError, TypeError):
                raise FileError(f"{self.where}: {attribute.name} of {name} has no valid value.") from None
        return found

    def constant(self, name):
        """The constant of that name, through Identity; None if it is none."""
        for _ in range(CHAIN):
            if name in self.constants or name not in self.makers or self.makers[name].op_type != "Identity":
                break
            name = next(iter(self.makers[name].input), "")
        return self.constants.get(name)

    def integers(self, name):
        """A constant list of few integers; None if it is none."""
        tensor, onnx = self.constant(name), package("onnx")
        if tensor is None or tensor.data_type != onnx.TensorProto.INT64 or len(tensor.dims) > 1:
            return None
        if tensor.data_location == onnx.TensorProto.EXTERNAL or len(tensor.raw_data) > 64 or len(tensor.int64_data) > 8:
            return None
        if len(tensor.raw_data) % 8:
            return None
        return np.frombuffer(tensor.raw_data, "<i8").tolist() or list(tensor.int64_data)

    def array(self, what, tensor):
        """A tensor as a NumPy array, after its claims were checked."""
        proto = package("onnx").TensorProto
        kinds = {getattr(proto, kind): row for kind, row in DTYPES.items()}
        if tensor.data_type not in kinds:
            listed = ", ".join(DTYPES)
            raise FileError(f"{self.where}: {what} has the type {tensor.data_type}; it must be one of {listed}.")
        dtype, field, held = kinds[tensor.data_type]
        dtype, shape = np.dtype(dtype), tuple(tensor.dims)
        if any(size < 0 for size in shape):
            raise FileError(f"{self.where}: {what} claims the shape {shape}.")
        claimed = math.prod(shape) * dtype.itemsize
        if tensor.data_location == proto.EXTERNAL:
            data = self._external(what, tensor, claimed)
        elif tensor.HasField("raw_data"):
            data = tensor.raw_data
        else:  # float16 as its bits, in integers
            data = np.asarray(getattr(tensor, field)).astype(held).tobytes()
        if len(data) != claimed:
            raise FileError(f"{self.where}: {what} claims {claimed} bytes for {dtype} {shape}; there are {len(data)}.")
        return np.frombuffer(data, dtype).astype(dtype.newbyteorder("="), copy=True).reshape(shape)

    def _external(self, what, tensor, claimed):
        """The bytes of a tensor that lie in a file beside the model."""
        entries = {str(entry.key): str(entry.value) for entry in tensor.external_data}
        location = entries.get("location", "")
        offset, length = entries.get("offset", "0"), entries.get("length", str(claimed))
        if not all(number.isascii() and number.isdigit() and len(number) < 19 for number in (offset, length)):
            raise FileError(f"{self.where}: {what} has no valid offset and length in {location!r}.")
        path = (self.folder or Path()) / location.replace("\0", "")
        beside = self.folder is not None and _is_beside(location) and path.resolve().is_relative_to(self.folder)
        if not beside:
            raise FileError(f"{self.where}: {what} is in {location!r}: only files beside the model are read.")
        if not path.is_file():
            raise FileError(f"{self.where}: {what} is in {location!r}, which is no file beside the model.")
        offset, length, size = int(offset), int(length), path.stat().st_size
        if length != claimed or offset + length > size:
            raise FileError(
                f"{self.where}: {what} claims {claimed} bytes, {length} at {offset} of {location!r}, which has {size}."
            )
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(length)

    def is_batch_first(self, name):
        """Whether a row of the batch is what comes first in X, or in what a Transpose makes X of."""
        batch_first = bool(self.attributes(name).get("layout"))
        maker = self.makers.get(next(iter(self.lstms[name].input), ""))
        swapped = maker is not None and maker.op_type == "Transpose" and _given(maker).get("perm") == [1, 0, 2]
        return batch_first != swapped

    def stacks(self):
        """The LSTM nodes as lists of names: those of one list follow each other as the layers of a network do."""
        following = {}
        for name in self.lstms:
            found = self._follower(name)
            if found is not None and self._settings(found) == self._settings(name):
                following[name] = found
        followers = set(following.values())
        stacks = [[name] for name in self.lstms if name not in followers]
        for stack in stacks:
            while stack[-1] in following:
                stack.append(following[stack[-1]])
        return stacks

    def _settings(self, name):
        """What all layers of a network have in common."""
        attributes = {key: value for key, value in self.attributes(name).items() if key != "layout"}
        inputs = dict(zip(INPUTS, self.lstms[name].input, strict=False))
        size = self._hidden_size(name)
        return attributes, size, bool(inputs.get("B")), bool(inputs.get("P")), inputs.get("sequence_lens", "")

    def _hidden_size(self, name):
        """H of an LSTM node, the last size of R; None where R is no constant."""
        inputs = dict(zip(INPUTS, self.lstms[name].input, strict=False))
        R = self.constant(inputs.get("R", ""))
        return R.dims[-1] if R is not None and R.dims else None

    def _follower(self, name):
        """The LSTM node whose X is the Y of this one, all of it, and which alone reads it; None if there is none.

        Followed are the axes of Y, through nodes that only move them.
        """
        attributes = self.attributes(name)
        dirs, H = 2 if attributes.get("direction") == "bidirectional" else 1, self._hidden_size(name)
        axes = ["N", "T", "dirs", "H"] if attributes.get("layout") else ["T", "dirs", "N", "H"]
        value = next(iter(self.lstms[name].output), "")
        for _ in range(CHAIN):
            readers = self.readers.get(value, [])
            if not value or len(readers) != 1 or value in self.outputs:
                return None
            (reader,) = readers
            follower = self.names.get(id(reader))
            if follower is not None:
                order = ["N", "T", "H"] if self.attributes(follower).get("layout") else ["T", "N", "H"]
                return follower if reader.input[0] == value and axes == order and follower != name else None
            axes = self._moved(axes, reader, dirs, H) if reader.input[0] == value and reader.output else None
            if axes is None:
                return None
            value = reader.output[0]
        return None

    def _moved(self, axes, node, dirs, H):
        """The axes behind a node that moves them, "H" for both directions side by side; None where it does more."""
        given = _given(node)
        if node.op_type == "Identity":
            return axes
        if node.op_type == "Transpose":
            order = given.get("perm", list(range(len(axes)))[::-1])
            return [axes[k] for k in order] if sorted(order) == list(range(len(axes))) else None
        if node.op_type == "Squeeze" and dirs == 1:
            places = self.integers(node.input[1]) if len(node.input) > 1 else None
            places = places or given.get("axes")
            return [axis for axis in axes if axis != "dirs"] if _is_place(places, axes, "dirs") else None
        if node.op_type == "Reshape" and axes[2:] == ["dirs", "H"] and len(node.input) > 1:
            return [*axes[:2], "H"] if self._merges(node, H and dirs * H) else None
        return None

    def _merges(self, node, features):
        """Whether a Reshape of (T, N, dirs, H), or (N, T, dirs, H), does nothing but merge the last two axes.

        It gives three sizes. If two of them are those of T, N and dirs * H (`features`), at their places, then the
        third is as well, whatever is written there.
        """
        source, target = node.input[:2]
        sizes, copied = self._sizes(target, source), not _given(node).get("allowzero")
        if sizes is None or len(sizes) != 3:
            return False
        declared = self.declared[source].dim if source in self.declared else ()
        own = [*(dim.dim_value for dim in declared[:2]), features] if len(declared) == 4 else [None, None, features]
        kept = sum(size is OWN or (size == 0 and copied) for size in sizes[:2])
        kept += sum(size == known for size, known in zip(sizes, own, strict=True) if known and known > 0)
        return kept >= 2

    def _sizes(self, name, source):
        """The sizes that a value has for a Reshape of `source`: integers, OWN for that of `source` at the same place.

        None for a size that is computed in another way; and instead of the list, where nothing is known.
        """
        maker = self.makers.get(name)
        if maker is None or maker.op_type != "Concat" or len(maker.input) > 4:
            return self.integers(name)
        return [OWN if self._is_size(part, source, place) else None for place, part in enumerate(maker.input)]

    def _is_size(self, name, source, place):
        """Whether a value is the size of `source` at this place: Shape(source)[place : place + 1]."""
        node = self.makers.get(name)
        if node is None or node.op_type != "Slice" or len(node.input) < 3:
            return False
        shape, *span = node.input[:3]
        shape, span = self.makers.get(shape), [self.integers(each) for each in span]
        of_source = shape is not None and shape.op_type == "Shape" and list(shape.input) == [source]
        return of_source and not _given(shape).get("start") and span == [[place], [place + 1]]


def _parsed(path, model):
    """The model of a file; only its structure, which protocol buffers keep within its size."""
    size = path.stat().st_size
    if size >= LIMIT:
        raise FileError(f"{path}: {size} bytes; an ONNX file has less than {LIMIT}.")
    data = path.read_bytes()
    try:
        model.ParseFromString(data)
    except package("google.protobuf.message").DecodeError as error:
        raise FileError(f"{path}: damaged, or no ONNX file: {str(error).splitlines()[0]}.") from None
    return model


def _plain(value):
    """Text from bytes; and of the numbers that are the same float32 the shortest: 0.2 for 0.20000000298."""
    if isinstance(value, bytes):
        return value.decode()
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _check_texts(where, graph):
    """Check that names are text: where they are no UTF-8, protocol buffers give bytes."""
    for node in graph.node:
        texts = [node.name, node.op_type, node.domain, *node.input, *node.output]
        texts += [text for attribute in node.attribute for text in (attribute.name, attribute.ref_attr_name)]
        if not all(isinstance(text, str) for text in texts):
            raise FileError(f"{where}: damaged: a node has a name that is no UTF-8 text.")
    if not all(isinstance(value.name, str) for value in (*graph.initializer, *graph.output)):
        raise FileError(f"{where}: damaged: a constant or output has a name that is no UTF-8 text.")


def _given(node):
    """The attributes of a node that are integers, or lists of them."""
    return {attribute.name: list(attribute.ints) or attribute.i for attribute in node.attribute}


def _is_place(places, axes, axis):
    """Whether `places` has the one place of an axis, counted from either end."""
    return isinstance(places, list) and axis in axes and places in ([axes.index(axis)], [axes.index(axis) - len(axes)])


def _is_beside(location):
    """Whether a location is a plain relative path, on every system."""
    for kind in (PurePosixPath, PureWindowsPath):
        path = kind(location)
        if path.is_absolute() or path.drive or path.root or ".." in path.parts:
            return False
    return location != "" and "\0" not in location
