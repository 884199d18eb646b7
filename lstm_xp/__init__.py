"""An LSTM for people who work in plain arrays: exact gradients and every gate, on NumPy, CuPy or any array library."""

from .cell import StepCache, StepGradients, lstm_step_backward, lstm_step_forward
from .checks import EngineError
from .engines import warmup
from .freezing import freeze
from .layers import LSTM
from .masks import Masks
from .onnx_operator import onnx_lstm
from .parameters import Direction, State
from .recording import Recorded, recorded
from .records import LayerCache, LayerGradients, SequenceCache, SequenceGradients
from .sequence import explain, lstm_backward, lstm_forward
from .tracing import GradientTrace, Saturation, Shares, Trace, gradient_traces, saturation, traces

__version__ = "0.1.0"

__all__ = [
    "LSTM",
    "Direction",
    "EngineError",
    "GradientTrace",
    "LayerCache",
    "LayerGradients",
    "Masks",
    "Recorded",
    "Saturation",
    "SequenceCache",
    "SequenceGradients",
    "Shares",
    "State",
    "StepCache",
    "StepGradients",
    "Trace",
    "explain",
    "freeze",
    "gradient_traces",
    "lstm_backward",
    "lstm_forward",
    "lstm_step_backward",
    "lstm_step_forward",
    "onnx_lstm",
    "recorded",
    "saturation",
    "traces",
    "warmup",
]
