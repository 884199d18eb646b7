"""Bits per byte of a text under a model, and under general compressors."""

import bz2
import lzma
import math

import numpy as np
from array_api_compat import array_namespace
from array_api_compat import device as device_of

from . import model
from .losses import cross_entropy_forward

CHUNK_BYTES = 4096
"""So many bytes go through the model at a time: bounds the memory of the logits."""


def bits_per_byte(parameters, text, *, streams=1):
    r"""Mean of :math:`-\log_2 p(s_{t} \mid s_{<t})` over a text, the first byte being predicted from a newline.

    Parameters
    ----------
    parameters : dict of array
        Of the model.
    text : bytes
        Not empty.
    streams : int
        1 reads the text from end to end, as one. More cut it into so many parts of equal length (less than one byte
        per stream is left out), which are read side by side, each from a zero state: faster, and a little pessimistic.

    Returns
    -------
    float
    """
    xp = array_namespace(parameters["embedding"])
    steps = len(text) // streams
    data = np.frombuffer(b"\n" + text[: steps * streams], dtype=np.uint8).astype(np.int64)
    inputs, targets = (
        xp.asarray(part.reshape(streams, steps), device=device_of(parameters["embedding"]))
        for part in (data[:-1], data[1:])
    )
    state, nats = None, 0.0
    length = max(1, CHUNK_BYTES // streams)
    for start in range(0, steps, length):
        stop = min(start + length, steps)
        logits, state, _ = model.forward(parameters, inputs[:, start:stop], state, training=False)
        loss, _ = cross_entropy_forward(logits, targets[:, start:stop])
        nats += float(loss) * logits.shape[1]
    return nats / steps / math.log(2)


def compressor_bits_per_byte(text):
    """Bits per byte that ``xz -9`` and ``bzip2 -9`` need for a text, their file headers included."""
    sizes = {"xz -9": len(lzma.compress(text, preset=9)), "bzip2 -9": len(bz2.compress(text, 9))}
    return {name: 8 * size / len(text) for name, size in sizes.items()}
