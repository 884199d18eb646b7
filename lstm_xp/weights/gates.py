"""The order of the gate blocks in every format, in one table. Here they are i, f, o, g.

The letters: i input gate, f forget gate, o output gate, g candidate (elsewhere called c, j, z, a or u).
"""

OURS = "ifog"

# Format -> the blocks of an axis of 4*H, in its order.
ORDERS = {
    "pytorch": "ifgo",
    "cudnn": "ifgo",
    "keras": "ifgo",
    "flax": "ifgo",
    "equinox": "ifgo",
    "chainer": "ifgo",
    "onnx": "iofg",
    "tensorflow1": "igfo",
    "haste": "igfo",
    "coreml": "ifog",
}


def from_order(array, order, axis, xp):
    """The blocks of an axis, which stand in this order, as i, f, o, g; of peepholes ("iof") as i, f, o."""
    return _reordered(array, order, _ours(order), axis, xp)


def to_order(array, order, axis, xp):
    """The inverse of `from_order`: blocks i, f, o, g (or i, f, o) in another order."""
    return _reordered(array, _ours(order), order, axis, xp)


def transposed(matrix, xp):
    """The transpose, row after row in memory where the library knows such an order: steps and products read it so."""
    if hasattr(xp, "ascontiguousarray"):
        return xp.ascontiguousarray(matrix.T)
    return matrix.T.contiguous() if hasattr(matrix, "contiguous") else matrix.T


def _ours(order):
    return "".join(gate for gate in OURS if gate in order)


def _reordered(array, order, wanted, axis, xp):
    if order == wanted:
        return array
    size = array.shape[axis] // len(order)
    blocks = {}
    for place, gate in enumerate(order):
        where = [slice(None)] * array.ndim
        where[axis] = slice(place * size, (place + 1) * size)
        blocks[gate] = array[tuple(where)]
    return xp.concat([blocks[gate] for gate in wanted], axis=axis)
