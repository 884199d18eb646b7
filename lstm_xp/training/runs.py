"""The directory of a run: its checkpoint, weights, history and curve."""

import json
import time
from pathlib import Path

from lstm_xp.files import write_atomically

from .checkpoints import load_checkpoint, save_checkpoint, save_model
from .curve import draw_curve
from .errors import UserError

CHECKPOINT, MODEL, HISTORY, CURVE = "checkpoint.safetensors", "model.safetensors", "history.jsonl", "curve.png"

CHECKPOINT_SHARE = 0.02
"""Checkpoints take about this share of the time: they come as often as that allows."""


class Run:
    """A directory, and when to write into it.

    The checkpoint holds the history too. So `history.jsonl`, written along with it, is never what a run goes on from:
    after a resume it is written anew, with neither doubled nor missing lines.

    Parameters
    ----------
    directory : path
    settings : Settings
    files : list of str
        Names of the text files, none for the standard library.
    texts : Texts
    """

    def __init__(self, directory, settings, files, texts):
        self.directory, self.settings = Path(directory), settings
        self._files, self._texts, self._digests = files, texts, texts.digests()
        self._due = 0.0

    def make_directory(self):
        """Make the directory, if it is not there."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.directory} cannot be made ({error.strerror}): choose another --out") from None

    def save(self, state):
        """Write checkpoint and history."""
        began = time.monotonic()
        save_checkpoint(self.directory / CHECKPOINT, state, self.settings, self._files, self._digests)
        lines = "".join(json.dumps(record) + "\n" for record in state.history)
        write_atomically(self.directory / HISTORY, lines.encode())
        now = time.monotonic()
        self._due = now + (now - began) / CHECKPOINT_SHARE

    def save_if_due(self, state):
        """Write them if the last time is long enough ago."""
        if time.monotonic() >= self._due:
            self.save(state)

    def save_results(self, state, results):
        """Write the model, with its test figures if there are any (dict of name to bits per byte), and the curve."""
        save_model(self.directory / MODEL, state.parameters, self.settings, step=state.step, test_bits=results)
        title = f"{self._texts.source}, {self.settings.layers} x {self.settings.hidden} units, step {state.step}"
        write_atomically(self.directory / CURVE, draw_curve(state.history, results, title))


def check_free(directory):
    """Refuse a directory that holds a run, or is none."""
    directory = Path(directory)
    held = [name for name in (CHECKPOINT, MODEL, HISTORY, CURVE) if (directory / name).exists()]
    if held:
        raise UserError(
            f"{directory} holds another run ({held[0]}): go on with it by --resume, or choose a new directory by --out"
        )
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file: choose a directory by --out")


def reopen(directory):
    """State, settings, files and digests of the run in a directory."""
    directory = Path(directory)
    if not (directory / CHECKPOINT).exists():
        what = f"has no {CHECKPOINT}" if directory.is_dir() else "is no directory"
        raise UserError(f"--resume: {directory} {what}: name a run by --out, or start one anew without --resume")
    return load_checkpoint(directory / CHECKPOINT)
