"""torch.nn.LSTM on the CPU, and torch.nn.LSTMCell for single steps."""

import numpy as np
import torch

packages = ("torch",)


def swap(array):
    """Gate blocks of the last axis: i, f, o, g (ours) to i, f, g, o (PyTorch's), or back."""
    i, f, third, fourth = np.split(array, 4, axis=-1)
    return np.concatenate([i, f, fourth, third], axis=-1)


class Contender:
    def __init__(self, problem, arrays, option):
        D, H = problem.D, problem.H
        self.details = {"threads": torch.get_num_threads()}
        weights = [torch.from_numpy(swap(arrays[name]).T.copy()) for name in ("Wx", "Wh", "b")]
        # Two modules, so that switching between evaluation and training takes no part in the times.
        self.learning = self._with(weights, torch.nn.LSTM(D, H, batch_first=True, dtype=weights[0].dtype)).train()
        self.evaluating = self._with(weights, torch.nn.LSTM(D, H, batch_first=True, dtype=weights[0].dtype)).eval()
        self.cell = self._with(weights, torch.nn.LSTMCell(D, H, dtype=weights[0].dtype)).eval()
        self.x, self.h0, self.c0, self.dh = (torch.from_numpy(arrays[name]) for name in ("x", "h0", "c0", "dh"))
        self.steps = [step.contiguous() for step in self.x.unbind(1)]
        # Leaves of their own for training: the others never require gradients.
        self.inputs = [v.clone().requires_grad_() for v in (self.x, self.h0, self.c0)]

    @staticmethod
    @torch.no_grad()
    def _with(weights, module):
        W_ih, W_hh, b_ih, b_hh = module.parameters()
        for parameter, value in zip((W_ih, W_hh, b_ih), weights, strict=True):
            parameter.copy_(value)
        b_hh.zero_()
        return module

    @torch.no_grad()
    def inference(self):
        return self.evaluating(self.x, (self.h0[None], self.c0[None]))

    def forward(self):
        x, h0, c0 = self.inputs
        return self.learning(x, (h0[None], c0[None]))

    def training(self):
        h, state = self.forward()
        W_ih, W_hh, b_ih, _ = self.learning.parameters()
        return h, state, torch.autograd.grad(h, [*self.inputs, W_ih, W_hh, b_ih], self.dh)

    @torch.no_grad()
    def step(self):
        state, outputs = (self.h0, self.c0), []
        for x in self.steps:
            state = self.cell(x, state)
            outputs.append(state[0])
        return torch.stack(outputs, dim=1), (state[0][None], state[1][None])

    def named(self, what, result):
        h, (h_n, c_n), *gradients = result
        arrays = {"h": h.detach().numpy(), "h_n": h_n[0].detach().numpy(), "c_n": c_n[0].detach().numpy()}
        if gradients:
            dx, dh0, dc0, dW_ih, dW_hh, db = (v.numpy() for v in gradients[0])
            arrays |= {"dx": dx, "dh0": dh0, "dc0": dc0, "dWx": swap(dW_ih.T), "dWh": swap(dW_hh.T), "db": swap(db)}
        return arrays
