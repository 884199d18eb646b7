"""Code written for the four functions as they were first described runs unchanged, and gets the same numbers."""

import numpy as np
from problems import random_problem

from lstm_xp import lstm_backward, lstm_forward, lstm_step_backward, lstm_step_forward
from lstm_xp.testing import assert_close


class Described:
    """The description, as it stands: gates i, f, o, g; c starts at zero; a cache per step."""

    @staticmethod
    def step_forward(x, prev_h, prev_c, Wx, Wh, b):
        H = prev_h.shape[1]
        A = x.dot(Wx) + prev_h.dot(Wh) + b
        i, f, o = (1 / (1 + np.exp(-A[:, k * H : (k + 1) * H])) for k in range(3))
        g = np.tanh(A[:, 3 * H :])
        next_c = f * prev_c + i * g
        next_h = o * np.tanh(next_c)
        return next_h, next_c, (x, prev_h, prev_c, i, f, o, g, Wx, Wh, next_c)

    @staticmethod
    def step_backward(dnext_h, dnext_c, cache):
        x, prev_h, prev_c, i, f, o, g, Wx, Wh, c = cache
        dc_from_h = dnext_h * o * (1 - np.square(np.tanh(c)))
        dprev_c = dc_from_h * f + dnext_c * f
        dc = dc_from_h + dnext_c
        da_o = np.tanh(c) * dnext_h * o * (1 - o)
        da_f, da_i = dc * prev_c * f * (1 - f), dc * g * i * (1 - i)
        da_g = dc * i * (1 - np.square(g))
        dA = np.concatenate((da_i, da_f, da_o, da_g), axis=1)
        return dA.dot(Wx.T), dA.dot(Wh.T), dprev_c, x.T.dot(dA), prev_h.T.dot(dA), np.sum(dA, axis=0).T

    @staticmethod
    def forward(x, h0, Wx, Wh, b):
        _, T, _ = x.shape
        h, c, all_h, caches = h0, np.zeros_like(h0), [], []
        for t in range(T):
            h, c, cache = Described.step_forward(x[:, t, :], h, c, Wx, Wh, b)
            all_h.append(h)
            caches.append(cache)
        return np.stack(all_h, axis=1), caches

    @staticmethod
    def backward(dh, caches):
        _, T, _ = dh.shape
        h = c = 0 * dh[:, 0]
        all_dx, sums = [], [0, 0, 0]
        for t in reversed(range(T)):
            dx, h, c, *weights = Described.step_backward(h + dh[:, t, :], c, caches[t])
            all_dx.append(dx)
            sums = [total + part for total, part in zip(sums, weights, strict=True)]
        return np.stack(all_dx[::-1], axis=1), h, *sums


def test_sequence():
    values = random_problem()
    arguments = [values[name] for name in ("x", "h0", "Wx", "Wh", "b")]
    h, cache = lstm_forward(*arguments)
    expected_h, caches = Described.forward(*arguments)
    assert_close(h, expected_h, steps=5)
    dx, dh0, dWx, dWh, db = lstm_backward(values["dh"], cache)
    for gradient, expected in zip((dx, dh0, dWx, dWh, db), Described.backward(values["dh"], caches), strict=True):
        assert_close(gradient, expected, kind="gradient", steps=5)


def test_step():
    values = random_problem()
    arguments = [values["x"][:, 0], *(values[name] for name in ("h0", "c0", "Wx", "Wh", "b"))]
    next_h, next_c, cache = lstm_step_forward(*arguments)
    expected_h, expected_c, expected_cache = Described.step_forward(*arguments)
    assert_close(next_h, expected_h)
    assert_close(next_c, expected_c)
    gradients = lstm_step_backward(values["dh_n"], values["dc_n"], cache)
    expected = Described.step_backward(values["dh_n"], values["dc_n"], expected_cache)
    dx, dprev_h, dprev_c, dWx, dWh, db = gradients
    for gradient, right in zip((dx, dprev_h, dprev_c, dWx, dWh, db), expected, strict=True):
        assert_close(gradient, right, kind="gradient")


def test_steps_by_hand_are_the_sequence():
    """The loop that users write over the step functions, forward and backward."""
    values = random_problem()
    arguments = [values[name] for name in ("x", "h0", "Wx", "Wh", "b")]
    h, cache = lstm_forward(*arguments, c0=values["c0"])
    gradients = lstm_backward(values["dh"], cache)
    next_h, next_c, caches = values["h0"], values["c0"], []
    for t in range(5):
        next_h, next_c, step = lstm_step_forward(values["x"][:, t], next_h, next_c, *arguments[2:])
        assert_close(next_h, h[:, t], steps=t + 1)
        caches.append(step)
    dh, dc, dWx = 0 * next_h, 0 * next_c, 0
    for t in reversed(range(5)):
        step = lstm_step_backward(dh + values["dh"][:, t], dc, caches[t])
        assert_close(step.dx, gradients.dx[:, t], kind="gradient", steps=5)
        dh, dc, dWx = step.dprev_h, step.dprev_c, dWx + step.dWx
    assert_close(dh, gradients.dh0, kind="gradient", steps=5)
    assert_close(dc, gradients.dc0, kind="gradient", steps=5)
    assert_close(dWx, gradients.dWx, kind="gradient", steps=5)
