"""Optimisers: from parameters, gradients and moments to new parameters and moments. Nothing is modified in place.

An optimiser has `default_lr`, `kinds` and `update(parameters, gradients, moments, lr, step)`. Its moments are a flat
dict of arrays, "KIND.NAME" for each of its kinds and each parameter. To add one: such a class, entered in `OPTIMIZERS`.
"""

from typing import NamedTuple

from array_api_compat import array_namespace


class Adam(NamedTuple):
    r"""Adam: steps by the running mean of the gradient over the root of the running mean of its square.

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1) g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        p &\leftarrow p - \eta \, \frac{m / (1 - \beta_1^k)}{\sqrt{v / (1 - \beta_2^k)} + \epsilon}

    Parameters
    ----------
    beta1, beta2 : float
        Decay rates of the two means.
    eps : float
        Keeps the quotient finite.

    References
    ----------
    .. [1] D. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.
    """

    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-8
    default_lr = 1.2e-2
    kinds = ("m", "v")

    def update(self, parameters, gradients, moments, lr, step):
        """Parameters and moments after step number `step` (from 1), at learning rate `lr`."""
        new_parameters, new_moments = {}, {}
        size, scale = lr / (1 - self.beta1**step), 1 / (1 - self.beta2**step)
        for name, p in parameters.items():
            g, xp = gradients[name], array_namespace(p)
            m = self.beta1 * moments[f"m.{name}"] + (1 - self.beta1) * g
            v = self.beta2 * moments[f"v.{name}"] + (1 - self.beta2) * (g * g)
            new_parameters[name] = p - size * m / (xp.sqrt(scale * v) + self.eps)
            new_moments |= {f"m.{name}": m, f"v.{name}": v}
        return new_parameters, new_moments


class SGD(NamedTuple):
    r"""Stochastic gradient descent with momentum.

    .. math::
        m \leftarrow \mu m + g, \qquad p \leftarrow p - \eta m

    Parameters
    ----------
    momentum : float
        mu, 0 for none.

    References
    ----------
    .. [1] B. Polyak, "Some methods of speeding up the convergence of iteration methods", USSR Comp. Math. 4(5), 1964.
    """

    momentum: float = 0.9
    default_lr = 0.2
    kinds = ("m",)

    def update(self, parameters, gradients, moments, lr, step):
        """Parameters and moments after a step at learning rate `lr`; `step` is not used."""
        moments = {f"m.{name}": self.momentum * moments[f"m.{name}"] + gradients[name] for name in parameters}
        return {name: p - lr * moments[f"m.{name}"] for name, p in parameters.items()}, moments


OPTIMIZERS = {"adam": Adam(), "sgd": SGD()}


def zero_moments(optimizer, parameters):
    """The moments before the first step."""
    return {
        f"{kind}.{name}": array_namespace(p).zeros_like(p) for kind in optimizer.kinds for name, p in parameters.items()
    }


def clip_by_norm(gradients, limit):
    r"""Scale all gradients by one factor, so that their common Euclidean norm is at most `limit`.

    .. math::
        g \leftarrow g \cdot \frac{c}{\max(c, \lVert g \rVert)}

    Parameters
    ----------
    gradients : dict of array
        Of one floating dtype.
    limit : float
        c > 0.

    Returns
    -------
    gradients : dict of array
        The scaled gradients.
    norm : array, shape ()
        The norm before scaling. It stays on its device: nothing waits for it.

    References
    ----------
    .. [1] R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks", ICML 2013.
    """
    xp = array_namespace(*gradients.values())
    norm = xp.sqrt(sum(xp.sum(g * g) for g in gradients.values()))
    factor = limit / xp.where(norm > limit, norm, xp.full_like(norm, limit))
    return {name: g * factor for name, g in gradients.items()}, norm
