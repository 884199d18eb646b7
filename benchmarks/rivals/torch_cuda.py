"""torch.nn.LSTM and LSTMCell on a GPU, in float32 by IEEE rules; every call ends when the device has done its work.

torch_cuda               eager: cuDNN's LSTM
torch_cuda:tf32          the same with TF32 products allowed, which is PyTorch's own default for cuDNN
torch_cuda:graph         captured once as a CUDA graph, then replayed: no launch costs per kernel
torch_cuda:graph+tf32    both
"""

import torch

from . import OPTIONS, torch_cpu

packages = ("torch",)


def refuses(device, option):
    """Why it cannot run here; "" if it can."""
    if option not in OPTIONS["torch_cuda"]:
        return f"it has no option {option!r}, but {', '.join(filter(None, OPTIONS['torch_cuda']))}"
    if device != "cuda":
        return "it runs on a GPU only (--device cuda)"
    return "" if torch.cuda.is_available() else "torch finds no GPU"


def captured(work):
    """A CUDA graph of some work as a function: each call replays it, and returns the same tensors, filled anew."""
    # Libraries set themselves up in their first calls, which a capture must not see; on a stream of their own, as
    # PyTorch's documentation asks.
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()

    def replay():
        graph.replay()
        return result

    return replay


class Contender(torch_cpu.Contender):
    device = "cuda"

    def __init__(self, problem, arrays, option):
        options = option.split("+")
        tf32 = "tf32" in options
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        if tf32 and problem.dtype == "float32":
            self.rounding = "float16"  # TF32 keeps as many digits of a factor as float16 does
        super().__init__(problem, arrays, option)
        self.details = {"gpu": torch.cuda.get_device_name(), "cudnn": torch.backends.cudnn.version()}
        self.graphs = {} if "graph" in options else None
        torch.cuda.synchronize()

    def inference(self):
        return self._done("inference", super().inference)

    def forward(self):
        return self._done("forward", super().forward)

    def training(self):
        return self._done("training", super().training)

    def _done(self, what, work):
        if self.graphs is not None:
            # Captured at the first call, which is never timed.
            if what not in self.graphs:
                self.graphs[what] = captured(work)
            work = self.graphs[what]
        result = work()
        torch.cuda.synchronize()
        return result

    def advance(self, x, state):
        if self.graphs is None:
            state = self.cell(x, state)
        else:
            if "step" not in self.graphs:
                self.graphs["step"] = self._step_graph()
            inputs, replay = self.graphs["step"]
            for static, value in zip(inputs, (x, *state), strict=True):
                static.copy_(value)
            # Copies: the next replay overwrites what this one returns.
            state = tuple(result.clone() for result in replay())
        # Whoever streams looks at each output before the next input comes.
        torch.cuda.synchronize()
        return state

    def _step_graph(self):
        x, h, c = (torch.empty_like(v) for v in (self.steps[0], self.h0, self.c0))
        return (x, h, c), captured(lambda: self.cell(x, (h, c)))
