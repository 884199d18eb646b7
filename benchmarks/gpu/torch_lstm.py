"""torch.nn.LSTM as it is timed beside the engines, in the same process: calls that do not wait for the device.

torch is imported with this module.
"""

from ..rivals import torch_cpu, torch_cuda
from .sizes import KINDS


class Torch(torch_cpu.Contender):
    """torch.nn.LSTM: on a GPU cuDNN's, with TF32 for the kind tf32 and without for all others.

    torch reads whether TF32 is allowed at each call: `allow` has to come before.
    """

    def __init__(self, problem, arrays, kind, place):
        import torch

        self.device, self.kind, self.place = place.torch_device, kind, place
        super().__init__(problem, arrays, "")
        dtype = getattr(torch, KINDS[kind].dtype)
        for module in (self.learning, self.evaluating):
            module.to(dtype)
        self.x, self.h0, self.c0, self.dh = (v.to(dtype) for v in (self.x, self.h0, self.c0, self.dh))
        self.inputs = [v.clone().requires_grad_() for v in (self.x, self.h0, self.c0)]
        self.cell = self.steps = None
        # In some dtypes, versions of torch have kernels of their own instead.
        self.by_cudnn = torch.cudnn_is_acceptable(self.x)

    def allow(self):
        """Set torch's switches for TF32."""
        import torch

        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = self.kind == "tf32"

    def work(self, what, mode):
        """`inference` or `training` as a function: eager, or replayed from a CUDA graph that is captured here."""
        call = getattr(self, what)
        self.allow()
        if mode == "graph":
            return torch_cuda.captured(call)

        def allowed():
            self.allow()
            return call()

        return allowed

    def named(self, result):
        h, (h_n, c_n), *gradients = result
        tensors = {"h": h, "h_n": h_n[0], "c_n": c_n[0]}
        if gradients:
            dx, dh0, dc0, dW_ih, dW_hh, db = gradients[0]
            tensors |= {"dx": dx, "dh0": dh0, "dc0": dc0, "dWx": dW_ih.T, "dWh": dW_hh.T, "db": db}
        arrays = {name: self.place.adopt(tensor.float()) for name, tensor in tensors.items()}
        return arrays | {name: self._ours(arrays[name]) for name in ("dWx", "dWh", "db") if name in arrays}

    def _ours(self, array):
        """Gates i, f, g, o as i, f, o, g."""
        H = array.shape[-1] // 4
        i_f, g, o = array[..., : 2 * H], array[..., 2 * H : 3 * H], array[..., 3 * H :]
        return self.place.xp.concatenate([i_f, o, g], axis=-1)
