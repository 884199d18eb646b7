"""Softmax cross-entropy."""

from typing import Any, NamedTuple

from array_api_compat import array_namespace

from .model import one_hot


class CrossEntropyCache(NamedTuple):
    """What `cross_entropy_backward` needs: the softmax (..., V) and the targets (...)."""

    probabilities: Any
    targets: Any


def cross_entropy_forward(logits, targets):
    r"""Mean negative log-likelihood of the targets under the softmax of the logits, in nats.

    .. math::
        \ell = \frac{1}{M} \sum_m \Big( \log \sum_v e^{z_{mv}} - z_{m, y_m} \Big)

    Parameters
    ----------
    logits : array, shape (..., 256)
        z, of a floating dtype.
    targets : integer array, shape (...)
        y, the byte that did come.

    Returns
    -------
    loss : array, shape ()
        Of the logits' dtype. Divide by log 2 for bits.
    cache : CrossEntropyCache
        What `cross_entropy_backward` needs.

    Notes
    -----
    The largest logit of each row is subtracted first, so that no exponential overflows.

    References
    ----------
    .. [1] J. Bridle, "Probabilistic Interpretation of Feedforward Classification Network Outputs",
       Neurocomputing, 1990.
    """
    xp = array_namespace(logits)
    shifted = logits - xp.max(logits, axis=-1, keepdims=True)
    exponentials = xp.exp(shifted)
    total = xp.sum(exponentials, axis=-1, keepdims=True)
    chosen = xp.sum(shifted * one_hot(targets, logits.dtype), axis=-1)
    return xp.mean(xp.log(total[..., 0]) - chosen), CrossEntropyCache(exponentials / total, targets)


def cross_entropy_backward(cache):
    r"""Gradient of the mean cross-entropy with respect to the logits.

    .. math::
        dz_{mv} = (p_{mv} - [v = y_m]) / M

    Parameters
    ----------
    cache : CrossEntropyCache
        What `cross_entropy_forward` returned. It is not modified.

    Returns
    -------
    array, shape (..., 256)
        Of the logits' dtype.
    """
    probabilities, targets = cache
    M = 1
    for size in targets.shape:
        M *= size
    return (probabilities - one_hot(targets, probabilities.dtype)) / M
