"""Files of weights: a model, and the checkpoint that a run goes on from. Each is written whole or not at all.

Both are safetensors files, with all else as one JSON text in their metadata. Nothing is ever unpickled.
"""

import importlib
import json
from dataclasses import fields

import numpy as np

from lstm_xp import State
from lstm_xp.files import write_atomically
from lstm_xp.libraries import to_numpy

from . import model
from .errors import UserError
from .formats import CHECKPOINT_FORMAT, MODEL_FORMAT
from .loop import TrainingState
from .optimizers import OPTIMIZERS
from .settings import Settings

_KEY = "lstm_xp"


def save_model(path, parameters, settings, **results):
    """Write a model: its parameters, and in the metadata the run's settings and what else is to be known of it."""
    _save(path, _to_host(parameters), {"format": MODEL_FORMAT, "settings": settings.as_dict(), **results})


def load_model(path):
    """The parameters (NumPy arrays) and the settings of a model.

    Raises
    ------
    UserError
        If the file is missing, damaged, no model of this kind, or its tensors are not those that its settings tell.
    """
    tensors, about = _load(path, MODEL_FORMAT, "a model written by lstm-xp train")
    settings = _settings(path, about)
    shapes = model.parameter_shapes(**settings.model_shape())
    _require(path, tensors, shapes, settings.dtype)
    return {name: tensors[name] for name in shapes}, settings


def save_checkpoint(path, state, settings, files, digests):
    """Write all that the rest of a run depends on.

    Parameters
    ----------
    path : path
        Where to.
    state : TrainingState
        All that changes in the course of the run.
    settings : Settings
        Of the run.
    files : list of str
        Names of the text files, none for the standard library.
    digests : dict of str
        SHA-256 of the texts.
    """
    tensors = {
        **{f"parameter.{name}": value for name, value in state.parameters.items()},
        **{f"moment.{name}": value for name, value in state.moments.items()},
        **{f"recurrent.{q}{k}": getattr(state.recurrent, q)[k, ...] for k in range(settings.layers) for q in "hc"},
        "loss": state.loss,
    }
    about = {
        "format": CHECKPOINT_FORMAT,
        "settings": settings.as_dict(),
        "files": files,
        "digests": digests,
        "step": state.step,
        "seconds": state.seconds,
        "losses": state.losses,
        "history": state.history,
    }
    _save(path, _to_host(tensors), about)


def load_checkpoint(path):
    """State (of NumPy arrays), settings, files and digests, as `save_checkpoint` was given them."""
    tensors, about = _load(path, CHECKPOINT_FORMAT, "a checkpoint written by lstm-xp train")
    settings = _settings(path, about)
    parameters = model.parameter_shapes(**settings.model_shape())
    moments = {
        f"{kind}.{name}": parameters[name] for kind in OPTIMIZERS[settings.optimizer].kinds for name in parameters
    }
    shapes = {f"parameter.{name}": shape for name, shape in parameters.items()}
    shapes |= {f"moment.{name}": shape for name, shape in moments.items()}
    shapes |= {f"recurrent.{q}{k}": (settings.batch, settings.hidden) for k in range(settings.layers) for q in "hc"}
    _require(path, tensors, shapes | {"loss": ()}, settings.dtype)
    state = TrainingState(
        step=about["step"],
        seconds=about["seconds"],
        parameters={name: tensors[f"parameter.{name}"] for name in parameters},
        moments={name: tensors[f"moment.{name}"] for name in moments},
        recurrent=State(*(np.stack([tensors[f"recurrent.{q}{k}"] for k in range(settings.layers)]) for q in "hc")),
        loss=tensors["loss"],
        losses=about["losses"],
        history=tuple(about["history"]),
    )
    return state, settings, about["files"], about["digests"]


def _save(path, tensors, about):
    data = importlib.import_module("safetensors.numpy").save(tensors, metadata={_KEY: json.dumps(about)})
    write_atomically(path, data)


def _load(path, expected_format, what):
    safetensors = importlib.import_module("safetensors")
    try:
        with open(path, "rb"):
            pass
        with safetensors.safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {}).get(_KEY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: it should be {what}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): it should be {what}") from None
    except (safetensors.SafetensorError, ValueError, TypeError):
        raise UserError(f"{path} is damaged, or no safetensors file: it should be {what}") from None
    found = about.get("format") if isinstance(about, dict) else None
    if found != expected_format:
        raise UserError(f"{path} is not {what} (its format is {found or 'unknown'}, needed is {expected_format!r})")
    return tensors, about


def _settings(path, about):
    try:
        known = {field.name for field in fields(Settings)}
        settings = Settings(**{name: value for name, value in about["settings"].items() if name in known})
        model.parameter_shapes(**settings.model_shape())
        np.dtype(settings.dtype)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise UserError(f"{path} is damaged: its settings cannot be understood; train the model anew") from None
    return settings


def _require(path, tensors, shapes, dtype):
    """That a file has these tensors, of these shapes and this dtype."""
    for name, shape in shapes.items():
        if name not in tensors:
            raise UserError(f"{path} lacks the tensor {name} that its settings tell of: take a whole copy of the file")
        found = tensors[name]
        if found.shape != tuple(shape) or found.dtype != dtype:
            raise UserError(
                f"{path}: tensor {name} is {found.dtype} {found.shape}, its settings tell of {dtype} {tuple(shape)}: "
                "take an unaltered copy of the file"
            )


def _to_host(tensors):
    return {name: np.asarray(to_numpy(value), order="C") for name, value in tensors.items()}
