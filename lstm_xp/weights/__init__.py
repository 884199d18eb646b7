"""Weights trained elsewhere, one file per format; and this package's own files.

Arrays by name are converted by ``network, params = from_...(...)`` and ``to_...(network, params, ...)``: PyTorch,
Keras, ONNX, Flax, Equinox, TensorFlow 1, cuDNN, Chainer, haste, Core ML. They may come from any one library, and stay
in it.

Files give NumPy arrays. `read` and `write` choose the format by suffix and content; `save`, `load` and `load_state` are
for this package's own. What a file claims is checked before memory is taken for it; nothing is ever unpickled.

A format is a module. One whose files `read` and `write` shall know is also a line in FORMATS, and has there

    names(path)                                  the LSTMs in a file, a list of names
    read(path, name=None) -> network, params     the one of that name; None for the only one
    write(path, network, params)                 optional; atomically (`lstm_xp.files`), replacing what is there
    recognises(path)                             optional: whether a file of its suffix is one of its kind
"""

from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from ..files import check_free


class Format(NamedTuple):
    """A file format: its module here, the suffixes of its files, and what it is."""

    module: str
    suffixes: tuple[str, ...]
    about: str


# The first one that has a file's suffix, and recognises the file, reads it; the first one with the suffix writes it.
FORMATS = {
    "lstm-xp": Format("store", (".safetensors", ".npz"), "this package's own"),
    "lstm-xp-train": Format("trained", (".safetensors",), "model or checkpoint of lstm-xp train"),
    "pytorch": Format("pytorch", (".safetensors", ".npz"), "names of PyTorch's state dicts"),
    "keras": Format("keras", (".keras", ".h5"), "Keras"),
    "onnx": Format("onnx", (".onnx",), "ONNX"),
}

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")

# Public name -> its module: imported on first use, since most programs need one format or none.
_HOMES = {
    "FileError": "containers",
    "from_chainer": "chainer",
    "from_coreml": "coreml",
    "from_cudnn": "cudnn",
    "from_equinox": "equinox",
    "from_flax": "flax",
    "from_haste": "haste",
    "from_keras": "keras",
    "from_onnx": "onnx",
    "from_pytorch": "pytorch",
    "from_tensorflow1": "tensorflow1",
    "load": "store",
    "load_state": "store",
    "save": "store",
    "to_chainer": "chainer",
    "to_coreml": "coreml",
    "to_cudnn": "cudnn",
    "to_equinox": "equinox",
    "to_flax": "flax",
    "to_haste": "haste",
    "to_keras": "keras",
    "to_onnx": "onnx",
    "to_pytorch": "pytorch",
    "to_tensorflow1": "tensorflow1",
}

__all__ = sorted([*_HOMES, "FORMATS", "Format", "format_of", "names", "read", "write"])


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__():
    return __all__


def format_of(path):
    """The name of a file's format, by its suffix and what is in it.

    Parameters
    ----------
    path : str or path
        Looked into where several formats have its suffix.

    Returns
    -------
    str
        One of `FORMATS`.

    Raises
    ------
    ValueError
        If the suffix belongs to none, or the file is damaged.

    Examples
    --------
    >>> from lstm_xp import weights
    >>> weights.format_of("model.keras")
    'keras'
    """
    path = Path(path)
    for name in _with_suffix(path):
        module = module_of(name)
        if not hasattr(module, "recognises") or module.recognises(path):
            return name
    raise ValueError(f"{path}: no format of this suffix recognises it.")


def module_of(name):
    """The module of a format."""
    if name not in FORMATS:
        raise ValueError(f"the format must be one of {', '.join(FORMATS)}; got {name!r}.")
    return import_module(f".{FORMATS[name].module}", __name__)


def names(path, *, format=None):
    """The names of the LSTMs in a file.

    Parameters
    ----------
    path : str or path
        Its suffix is one of those in `FORMATS`.
    format : str or None
        One of `FORMATS`; None to find out.

    Returns
    -------
    list of str
        What `read` takes as name; "" is an LSTM without a name.

    Raises
    ------
    ValueError, ImportError
        As by `read`.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from lstm_xp import LSTM, weights
    >>> network = LSTM(3, 4)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = Path(directory) / "model.npz"
    ...     np.savez(path, **weights.to_pytorch(network, network.init(), prefix="encoder.lstm"))
    ...     weights.names(path)
    ['encoder.lstm']
    """
    return module_of(format or format_of(path)).names(path)


def read(path, name=None, *, format=None):
    """A network and its parameters from a file of any known format.

    Parameters
    ----------
    path : str or path
        Its suffix is one of those in `FORMATS`.
    name : str or None
        One of `names(path)`; None for the only one.
    format : str or None
        One of `FORMATS`; None to find out.

    Returns
    -------
    network : LSTM
    params : tuple of Direction
        NumPy arrays.

    Raises
    ------
    ValueError
        If the file is damaged or of no known format, if it has no LSTM, several to choose from, or one that cannot be
        expressed here.
    ImportError
        If a package is missing that reads the format.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from lstm_xp import LSTM, weights
    >>> network = LSTM(3, 4)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = Path(directory) / "for_torch.npz"
    ...     weights.write(path, network, network.init(), format="pytorch")
    ...     again, params = weights.read(path)
    >>> again == network
    True
    """
    return module_of(format or format_of(path)).read(path, name)


def write(path, network, params, *, format=None, overwrite=False):
    """Write a network to a file of any known format, whole or not at all.

    Parameters
    ----------
    path : str or path
        Its suffix is one of those in `FORMATS`.
    network : LSTM
        Its configuration.
    params : tuple of Direction
        Arrays of any one library.
    format : str or None
        One of `FORMATS`; None for the first one that has the suffix: this package's own for .safetensors and .npz.
    overwrite : bool
        Whether a file of that name may be replaced.

    Raises
    ------
    FileExistsError
        If there is such a file already.
    ValueError
        If no format has this suffix, or the format cannot hold the network.

    See Also
    --------
    read : has an example.
    """
    name = format or _with_suffix(Path(path))[0]
    module = module_of(name)
    if not hasattr(module, "write"):
        raise ValueError(f"{path}: files of the format {name} cannot be written.")
    check_free(path, overwrite)
    module.write(path, network, params)


def _with_suffix(path):
    """The formats that have the suffix of a path."""
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        raise ValueError(
            f"{path}: a pickle can run any code, so it is never read. Where PyTorch is, save it as safetensors:\n"
            "    import torch, safetensors.torch\n"
            f"    safetensors.torch.save_file(torch.load({str(path)!r}, map_location='cpu', weights_only=True), "
            f"{str(path.with_suffix('.safetensors'))!r})"
        )
    found = [name for name, row in FORMATS.items() if suffix in row.suffixes]
    if not found:
        known = sorted({each for row in FORMATS.values() for each in row.suffixes})
        raise ValueError(f"{path}: the suffix must be one of {', '.join(known)}; got {suffix or 'none'}.")
    return found
