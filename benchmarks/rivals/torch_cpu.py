"""torch.nn.LSTM on the CPU, and torch.nn.LSTMCell for single steps: with PyTorch's own number of threads.

Inference and steps run in `torch.inference_mode`, which does the least bookkeeping; a training step is one call of
`torch.autograd.grad`, which adds nothing to gradients from before.
"""

import numpy as np
import torch

packages = ("torch",)


def swap(array):
    """Gate blocks of the last axis: i, f, o, g (ours) to i, f, g, o (PyTorch's), or back."""
    i, f, third, fourth = np.split(array, 4, axis=-1)
    return np.concatenate([i, f, fourth, third], axis=-1)


class Contender:
    device = "cpu"

    def __init__(self, problem, arrays, option):
        self.details = {"threads": torch.get_num_threads()}
        weights = [torch.from_numpy(swap(arrays[name]).T.copy()) for name in ("Wx", "Wh", "b")]
        # Two modules, so that switching between evaluation and training takes no part in the times.
        self.learning = self._with(weights, torch.nn.LSTM, problem, batch_first=True).train()
        self.evaluating = self._with(weights, torch.nn.LSTM, problem, batch_first=True).eval()
        self.cell = self._with(weights, torch.nn.LSTMCell, problem).eval()
        given = (torch.from_numpy(arrays[name]).to(self.device) for name in ("x", "h0", "c0", "dh"))
        self.x, self.h0, self.c0, self.dh = given
        self.steps = [step.contiguous() for step in self.x.unbind(1)]
        # Leaves of their own for training: the others never require gradients.
        self.inputs = [v.clone().requires_grad_() for v in (self.x, self.h0, self.c0)]

    @torch.no_grad()
    def _with(self, weights, kind, problem, **options):
        module = kind(problem.D, problem.H, dtype=weights[0].dtype, device=self.device, **options)
        W_ih, W_hh, b_ih, b_hh = module.parameters()
        for parameter, value in zip((W_ih, W_hh, b_ih), weights, strict=True):
            parameter.copy_(value)
        b_hh.zero_()
        return module

    @torch.inference_mode()
    def inference(self):
        return self.evaluating(self.x, (self.h0[None], self.c0[None]))

    def forward(self):
        x, h0, c0 = self.inputs
        return self.learning(x, (h0[None], c0[None]))

    def training(self):
        # Not `self.forward`: a contender built on this one may do more there than computing.
        x, h0, c0 = self.inputs
        h, state = self.learning(x, (h0[None], c0[None]))
        W_ih, W_hh, b_ih, _ = self.learning.parameters()
        return h, state, torch.autograd.grad(h, [*self.inputs, W_ih, W_hh, b_ih], self.dh)

    @torch.inference_mode()
    def step(self):
        state, outputs = (self.h0, self.c0), []
        for x in self.steps:
            state = self.advance(x, state)
            outputs.append(state[0])
        return outputs, state

    def advance(self, x, state):
        return self.cell(x, state)

    def named(self, what, result):
        if what == "step":
            outputs, (h_n, c_n) = result
            return {
                name: v.numpy(force=True) for name, v in (("h", torch.stack(outputs, 1)), ("h_n", h_n), ("c_n", c_n))
            }
        h, (h_n, c_n), *gradients = result
        arrays = {"h": h.numpy(force=True), "h_n": h_n[0].numpy(force=True), "c_n": c_n[0].numpy(force=True)}
        if gradients:
            dx, dh0, dc0, dW_ih, dW_hh, db = (v.numpy(force=True) for v in gradients[0])
            arrays |= {"dx": dx, "dh0": dh0, "dc0": dc0, "dWx": swap(dW_ih.T), "dWh": swap(dW_hh.T), "db": swap(db)}
        return arrays
