"""The learning rate over the course of a run."""

import math


def warmup_cosine(done, *, warmup=0.02, floor=0.02):
    r"""Factor on the learning rate: a linear rise, then half a cosine down to `floor`.

    .. math::
        s(q) = \begin{cases} q / w & q < w \\
               f + (1 - f) \, \tfrac12 \Big(1 + \cos \pi \frac{q - w}{1 - w}\Big) & \text{otherwise} \end{cases}

    Parameters
    ----------
    done : float
        q, the share of the run that is done, 0 to 1; what lies beyond counts as 1.
    warmup : float
        w, the share spent on the rise.
    floor : float
        f, the factor at the end.

    Returns
    -------
    float

    References
    ----------
    .. [1] I. Loshchilov, F. Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017.

    Examples
    --------
    >>> warmup_cosine(0.01), warmup_cosine(0.02), warmup_cosine(1.0)
    (0.5, 1.0, 0.02)
    """
    if done < warmup:
        return done / warmup
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (min(done, 1.0) - warmup) / (1 - warmup)))
