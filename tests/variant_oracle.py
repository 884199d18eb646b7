"""The cell variants on plain Python numbers, one line per formula, from the papers; nothing shared with the package.

Parameters, states and masks are nested lists, by the names of `lstm_xp.parameters`; a function is a name, or a tuple of
a name, alpha and beta. The sources are those of the docstring of `lstm_xp.variants`.
"""

import math

from oracle import dot, sigmoid

# The functions of the operator LSTM of ONNX, as its text has them, and the constants where none are given.
FUNCTIONS = {
    "Sigmoid": lambda z, alpha, beta: sigmoid(z, math),
    "Tanh": lambda z, alpha, beta: math.tanh(z),
    "Relu": lambda z, alpha, beta: max(0, z),
    "Affine": lambda z, alpha, beta: alpha * z + beta,
    "LeakyRelu": lambda z, alpha, beta: z if z >= 0 else alpha * z,
    "ThresholdedRelu": lambda z, alpha, beta: z if z >= alpha else 0,
    "ScaledTanh": lambda z, alpha, beta: alpha * math.tanh(beta * z),
    "HardSigmoid": lambda z, alpha, beta: min(max(alpha * z + beta, 0), 1),
    "Elu": lambda z, alpha, beta: z if z >= 0 else alpha * (math.exp(z) - 1),
    "Softsign": lambda z, alpha, beta: z / (1 + abs(z)),
    "Softplus": lambda z, alpha, beta: math.log(1 + math.exp(z)),
}
CONSTANTS = {
    "LeakyRelu": (0.01,), "ThresholdedRelu": (1,), "HardSigmoid": (0.2, 0.5), "Elu": (1,), "ScaledTanh": (1, 1),
    "Affine": (1, 0),
}  # fmt: skip
EPSILON = 1e-5


def function(given):
    """A function of one number."""
    name, *constants = (given,) if isinstance(given, str) else given
    alpha, beta, *_ = (*(constants or CONSTANTS.get(name, ())), None, None)
    return lambda z: FUNCTIONS[name](z, alpha, beta)


def layer_norm(values, gain):
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / len(values)
    return [(value - mean) / math.sqrt(variance + EPSILON) * g for value, g in zip(values, gain, strict=True)]


def step(x, h, c, p, kept, k_h, k_c, activations, coupled, clip):
    """One row through one step: x (D), h (R), c (H), masks -> the new h and c."""
    F, G, A = map(function, activations)
    H = len(c)
    fed = [value * mask for value, mask in zip(h, kept, strict=True)]
    from_x = [dot(x, p["Wx"], k) for k in range(4 * H)]
    from_h = [dot(fed, p["Wh"], k) for k in range(4 * H)]
    if "gain_x" in p:
        from_x, from_h = layer_norm(from_x, p["gain_x"]), layer_norm(from_h, p["gain_h"])
    b = p.get("b", [0.0] * (4 * H))
    z = [from_x[k] + from_h[k] + b[k] for k in range(4 * H)]
    p_i, p_f, p_o = p.get("peepholes", [[0.0] * H] * 3)

    def bounded(value):
        return value if clip is None else min(max(value, -clip), clip)

    cells, outs = [], []
    for k in range(H):
        i = F(bounded(z[k] + p_i[k] * c[k]))
        f = 1 - i if coupled else F(bounded(z[H + k] + p_f[k] * c[k]))
        g = G(bounded(z[3 * H + k]))
        cells.append(f * c[k] + i * g)
        outs.append(F(bounded(z[2 * H + k] + p_o[k] * cells[k])))
    seen = cells
    if "gain_c" in p:
        seen = [value + bias for value, bias in zip(layer_norm(cells, p["gain_c"]), p["bias_c"], strict=True)]
    new = [o * A(value) for o, value in zip(outs, seen, strict=True)]
    if "Wp" in p:
        new = [dot(new, p["Wp"], k) for k in range(len(h))]
    new = [k * before + (1 - k) * after for k, before, after in zip(k_h, h, new, strict=True)]
    cells = [k * before + (1 - k) * after for k, before, after in zip(k_c, c, cells, strict=True)]
    return new, cells


def lstm(x, h0, c0, p, masks, *, activations, coupled, clip, lengths=None, reverse=False):
    """x (N, T, D), h0 (N, R), c0 (N, H), masks by name -> h (N, T, R) with zeros behind the lengths, h_n, c_n."""
    all_h, h_n, c_n = [], [], []
    for row, steps in enumerate(x):
        length = len(steps) if lengths is None else lengths[row]
        h, c = list(h0[row]), list(c0[row])
        outputs = [[0.0] * len(h) for _ in steps]
        for t in reversed(range(length)) if reverse else range(length):
            drawn = masks["recurrent"][row], masks["zoneout_h"][row][t], masks["zoneout_c"][row][t]
            h, c = step(steps[t], h, c, p, *drawn, activations, coupled, clip)
            outputs[t] = h
        all_h.append(outputs)
        h_n.append(h)
        c_n.append(c)
    return all_h, h_n, c_n
