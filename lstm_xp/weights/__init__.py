"""Weights trained elsewhere, one file per format; and this package's own files.

Arrays by name are converted by ``network, params = from_...(...)`` and ``to_...(network, params, ...)``: PyTorch,
Keras, ONNX, Flax, Equinox, TensorFlow 1, cuDNN, Chainer, haste, Core ML. They may come from any one library, and stay
in it.

Files give NumPy arrays. `read` and `write` choose the format by suffix and content; `save`, `load` and `load_state` are
for this package's own. What a file claims is checked before memory is taken for it; nothing is ever unpickled.

A format is a module. One whose files `read` and `write` shall know is also a line in FORMATS, and has there

    names(path)                                  the LSTMs in a file, a list of names
    read(path, name=None) -> network, params     the one of that name; None for the only one
    write(path, network, params)                 optional; atomically (`lstm_xp.files`), replacing what is there; with
                                                 prefix="" where the line in FORMATS says so
    recognises(path)                             optional: whether a file of its suffix is one of its kind
    others(path, name=None)                      optional: the names of what is in a file beside that LSTM, or beside
                                                 all for None; from headers alone
"""

from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from ..files import check_free


class Format(NamedTuple):
    """A file format: its module here, the suffixes of its files, what it is, and whether its names have a prefix."""

    module: str
    suffixes: tuple[str, ...]
    about: str
    has_prefix: bool = False


# The first one that has a file's suffix, and recognises the file, reads it; the first one with the suffix writes it.
FORMATS = {
    "lstm-xp": Format("store", (".safetensors", ".npz"), "this package's own"),
    "lstm-xp-train": Format("trained", (".safetensors",), "model or checkpoint of lstm-xp train"),
    "pytorch": Format("pytorch", (".safetensors", ".npz"), "names of PyTorch's state dicts", has_prefix=True),
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

__all__ = sorted([*_HOMES, "FORMATS", "Format", "format_of", "names", "others", "read", "write"])


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


def others(path, name=None, *, format=None):
    """The names of the tensors in a file beside an LSTM: what `read` leaves out. Only headers are read.

    Parameters
    ----------
    path : str or path
        Its suffix is one of those in `FORMATS`.
    name : str or None
        One of `names(path)`; None for what belongs to none of them.
    format : str or None
        One of `FORMATS`; None to find out.

    Returns
    -------
    list of str, or None
        None where the format cannot tell.

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
    ...     np.savez(path, **weights.to_pytorch(network, network.init(), prefix="lstm"), **{"out.bias": np.zeros(2)})
    ...     weights.others(path)
    ['out.bias']
    """
    module = module_of(format or format_of(path))
    return module.others(path, name) if hasattr(module, "others") else None


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


def write(path, network, params, *, format=None, overwrite=False, prefix=""):
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
    prefix : str
        What the names of the tensors shall begin with, for example ``"encoder.lstm"``, where the format has such names:
        pytorch.

    Raises
    ------
    FileExistsError
        If there is such a file already.
    ValueError
        If no format has this suffix, or the format has another one, cannot hold the network, or has no prefix.

    See Also
    --------
    read : has an example.
    """
    name = format or _with_suffix(Path(path), "write")[0]
    module = module_of(name)
    if not hasattr(module, "write"):
        raise ValueError(f"{path}: files of the format {name} cannot be written.")
    suffix, suffixes = Path(path).suffix.lower(), FORMATS[name].suffixes
    if suffix not in suffixes:  # or nothing would read the file again
        rule = f"one of {', '.join(suffixes)}" if len(suffixes) > 1 else suffixes[0]
        raise ValueError(f"{path}: the suffix must be {rule} for the format {name}; got {suffix or 'none'}.")
    if prefix:
        _check_prefix(path, name, prefix)
    check_free(path, overwrite)
    module.write(path, network, params, **({"prefix": prefix} if prefix else {}))


def _check_prefix(path, name, prefix):
    if not FORMATS[name].has_prefix:
        able = ", ".join(each for each, row in FORMATS.items() if row.has_prefix)
        raise ValueError(f"{path}: files of the format {name} have no prefix, those of {able} do; got {prefix!r}.")
    # A file with other names could not be read again.
    if not isinstance(prefix, str) or not prefix.isprintable() or f".{prefix.removesuffix('.')}".endswith("."):
        raise ValueError(f"{path}: prefix must be a printable text, with a dot at its end at most; got {prefix!r}.")


def _with_suffix(path, purpose="read"):
    """The formats that have the suffix of a path."""
    suffix = path.suffix.lower()
    if suffix in PICKLES and purpose == "write":
        raise ValueError(
            f"{path}: pickles are never written. PyTorch reads .safetensors by safetensors.torch.load_file: write "
            "that, in the format pytorch."
        )
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
