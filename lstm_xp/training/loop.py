"""One training step, and the loop over them."""

import math
import time
from typing import Any, NamedTuple

from lstm_xp import State

from . import model
from .errors import UserError
from .losses import cross_entropy_backward, cross_entropy_forward
from .optimizers import OPTIMIZERS, clip_by_norm, zero_moments
from .schedules import warmup_cosine

RECORDS = 100
"""Lines of history in a run."""

VALIDATIONS = 10
"""Validations in a run; they fall on records."""


class TrainingState(NamedTuple):
    """All that changes in the course of a run. A step makes a new one, so an interrupted step leaves nothing half done.

    `recurrent` is the state of all layers and streams, `loss` the sum over the `losses` steps since the last record, in
    nats, as an array on the device.
    """

    step: int
    seconds: float
    parameters: dict
    moments: dict
    recurrent: State
    loss: Any
    losses: int
    history: tuple


def initial_state(parameters, settings, xp):
    """The state before the first step."""
    parameters = {name: xp.asarray(value) for name, value in parameters.items()}
    return TrainingState(
        step=0,
        seconds=0.0,
        parameters=parameters,
        moments=zero_moments(OPTIMIZERS[settings.optimizer], parameters),
        recurrent=model.zero_state(parameters, settings.batch),
        loss=xp.zeros((), dtype=parameters["embedding"].dtype),
        losses=0,
        history=(),
    )


def on_device(state, xp):
    """A state with its arrays in another library, as after loading a checkpoint."""
    return state._replace(
        parameters={name: xp.asarray(value) for name, value in state.parameters.items()},
        moments={name: xp.asarray(value) for name, value in state.moments.items()},
        recurrent=State(*map(xp.asarray, state.recurrent)),
        loss=xp.asarray(state.loss),
    )


def learning_rate(settings, state):
    """The learning rate of the step that comes next."""
    # In the middle of the step, so that neither the first nor the last one is wasted on a rate of next to nothing.
    ahead = 0.5 if settings.steps else 0.0
    return settings.lr * warmup_cosine(settings.done(state.step + ahead, state.seconds))


def train_step(state, settings, inputs, targets, fresh):
    """The state after one step of truncated back-propagation on one window.

    Parameters
    ----------
    state : TrainingState
        Before the step. It is not modified.
    settings : Settings
        Of the run.
    inputs, targets : integer array, shape (N, T)
        The window: each byte, and the one after it.
    fresh : bool
        Whether the streams begin anew, so that the recurrent state is not carried.
    """
    optimizer, lr = OPTIMIZERS[settings.optimizer], learning_rate(settings, state)
    logits, recurrent, cache = model.forward(state.parameters, inputs, None if fresh else state.recurrent)
    loss, loss_cache = cross_entropy_forward(logits, targets)
    gradients = model.backward(cross_entropy_backward(loss_cache), cache)
    gradients, _ = clip_by_norm(gradients, settings.clip)
    parameters, moments = optimizer.update(state.parameters, gradients, state.moments, lr, state.step + 1)
    return state._replace(
        step=state.step + 1,
        parameters=parameters,
        moments=moments,
        recurrent=recurrent,
        loss=state.loss + loss,
        losses=state.losses + 1,
    )


def train(state, settings, windows, validate):
    """Train until the run's length is reached, and yield the state after every step.

    Parameters
    ----------
    state : TrainingState
        Where to begin: `initial_state`, or that of a checkpoint.
    settings : Settings
        Of the run.
    windows : Windows
        The training text.
    validate : callable
        From parameters to bits per byte.

    Yields
    ------
    TrainingState
        A hundred times in a run its history is one record longer: a dict with step, bytes, seconds, lr, train_bits and,
        ten times, valid_bits.
    """
    began = time.perf_counter() - state.seconds
    while (before := settings.done(state.step, state.seconds)) < 1:
        lr = learning_rate(settings, state)
        state = train_step(state, settings, *windows.window(state.step))
        state = state._replace(seconds=time.perf_counter() - began)
        after = settings.done(state.step, state.seconds)
        if _passes(before, after, RECORDS):
            record = {
                "step": state.step,
                "bytes": state.step * settings.batch * settings.length,
                "seconds": round(state.seconds, 2),
                "lr": lr,
                "train_bits": train_bits(state),
            }
            if not math.isfinite(record["train_bits"]):
                raise UserError(
                    f"the loss is no number any more at step {state.step}: "
                    "train anew with a smaller --lr or --clip, in another --out"
                )
            if _passes(before, after, VALIDATIONS):
                record["valid_bits"] = validate(state.parameters)
            state = state._replace(history=(*state.history, record), loss=0 * state.loss, losses=0)
        yield state


def train_bits(state):
    """Mean loss since the last record, in bits per byte; the last record's where no step came after it."""
    if state.losses == 0:
        return state.history[-1]["train_bits"] if state.history else math.nan
    return float(state.loss) / state.losses / math.log(2)


def _passes(before, after, marks):
    """Whether one of so many equally spaced marks lies between two shares of the run."""
    return math.floor(after * marks) > math.floor(before * marks)
