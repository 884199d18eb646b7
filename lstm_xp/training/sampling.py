"""Text from a model, one step at a time."""

import numpy as np
from array_api_compat import array_namespace

from lstm_xp.libraries import to_numpy

from . import model


def sample_bytes(parameters, prompt, length, *, temperature=1.0, rng=None):
    r"""Yield bytes that continue a prompt, each as soon as it is drawn.

    .. math::
        p(v) \propto e^{z_v / \tau}

    Parameters
    ----------
    parameters : dict of array
        Of the model.
    prompt : bytes
        What the text begins with, read after a newline. May be empty.
    length : int
        Number of bytes to draw.
    temperature : float
        tau: 1 draws from the model's own distribution, less is more careful, 0 takes the likeliest byte every time.
    rng : numpy.random.Generator
        Where chance comes from; not needed at temperature 0.

    Yields
    ------
    int
        The next byte.
    """
    layers, state = model.layers_of(parameters), None
    for byte in b"\n" + prompt:
        logits, state = step(parameters, layers, byte, state)
    for _ in range(length):
        byte = _draw(to_numpy(logits)[0].astype(np.float64), temperature, rng)
        yield byte
        logits, state = step(parameters, layers, byte, state)


def step(parameters, layers, byte, state):
    """Feed one byte to a model and its `layers_of`: the logits (1, 256) of the byte after it, and the new state."""
    xp = array_namespace(parameters["embedding"])
    network, params = layers
    h, state = network.step(params, parameters["embedding"][byte : byte + 1, :], state)
    return xp.matmul(h, parameters["output.W"]) + parameters["output.b"], state


def _draw(logits, temperature, rng):
    if temperature == 0:
        return int(np.argmax(logits))
    weights = np.exp((logits - np.max(logits)) / temperature)
    # Inverse of the cumulative distribution; the last byte with any weight catches what rounding leaves over.
    cumulative = np.cumsum(weights)
    chosen = np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")
    return int(min(chosen, np.flatnonzero(weights)[-1]))
