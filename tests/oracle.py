"""A scalar LSTM: plain Python numbers in nested lists, one line per formula, nothing shared with the package.

It runs on floats and on mpmath's numbers alike; `functions` is the module that has exp and tanh for them.
"""

import math


def sigmoid(z, functions):
    if z >= 0:
        return 1 / (1 + functions.exp(-z))
    e = functions.exp(z)
    return e / (1 + e)


def dot(row, matrix, column):
    return sum(value * weights[column] for value, weights in zip(row, matrix, strict=True))


def step(x, h, c, Wx, Wh, b, functions=math):
    """One row through one step: x (D), h and c (H) -> the new h and c."""
    H = len(h)
    a = [dot(x, Wx, k) + dot(h, Wh, k) + b[k] for k in range(4 * H)]
    new_h, new_c = [], []
    for k in range(H):
        i = sigmoid(a[k], functions)
        f = sigmoid(a[H + k], functions)
        o = sigmoid(a[2 * H + k], functions)
        g = functions.tanh(a[3 * H + k])
        cell = f * c[k] + i * g
        new_c.append(cell)
        new_h.append(o * functions.tanh(cell))
    return new_h, new_c


def lstm(x, h0, c0, Wx, Wh, b, lengths=None, reverse=False, functions=math):
    """x (N, T, D), h0 and c0 (N, H) -> h (N, T, H) with zeros behind the lengths, h_n, c_n (N, H)."""
    all_h, h_n, c_n = [], [], []
    for row, steps in enumerate(x):
        length = len(steps) if lengths is None else lengths[row]
        h, c = list(h0[row]), list(c0[row])
        outputs = [[0.0] * len(h) for _ in steps]
        for t in reversed(range(length)) if reverse else range(length):
            h, c = step(steps[t], h, c, Wx, Wh, b, functions)
            outputs[t] = h
        all_h.append(outputs)
        h_n.append(h)
        c_n.append(c)
    return all_h, h_n, c_n
