"""This package's own files of networks: .safetensors, or .npz.

Both hold the arrays of `lstm_xp.parameters` under the names layer0.forward.Wx, layer0.reverse.Wx, ..., and a state,
where there is one, under state.h and state.c. A JSON text, in the metadata of safetensors or as the array lstm_xp of
.npz, has the version of the format and the configuration of the network. An engine is no part of it: another machine
may have others.
"""

from dataclasses import fields

from .. import checks
from ..files import check_free
from ..layers import LSTM
from ..parameters import Direction, State, check_parameters, check_state, shapes, state_shapes
from . import containers, tensors
from .containers import FileError

FORMAT = "lstm-xp network"
VERSION = 1
SUFFIXES = containers.SUFFIXES
_LEFT_OUT = ("engine",)
_STATE = ("state.h", "state.c")


def save(path, network, params, *, state=None, overwrite=False):
    """Write a network, whole or not at all.

    Parameters
    ----------
    path : str or path
        Ends in .safetensors, or in .npz (which lacks bfloat16).
    network : LSTM
        Its configuration.
    params : tuple of Direction
        Arrays of any one library; they are written as they are, to the bit.
    state : State, or None
        A state to go on from.
    overwrite : bool
        Whether a file of that name may be replaced.

    Raises
    ------
    FileExistsError
        If there is such a file already.
    ValueError, TypeError
        If parameters or state are not those of the network, or the suffix is another.
    ImportError
        If safetensors is not installed, or ml_dtypes for bfloat16.

    See Also
    --------
    load, load_state

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from lstm_xp import LSTM
    >>> from lstm_xp.weights import load, save
    >>> network = LSTM(3, 4, num_layers=2)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     save(Path(directory) / "network.npz", network, network.init())
    ...     again, params = load(Path(directory) / "network.npz")
    >>> again == network, params[1].Wx.shape
    (True, (4, 16))
    """
    check_free(path, overwrite)
    arrays = check_parameters("save", network, params)
    if state is not None:
        arrays |= check_state("save", network, state, _rows(state))
    checks.one_library("save", arrays)
    named = {f"{place}.{name}": v for place, p in zip(_places(network), params, strict=True)
             for name, v in p._asdict().items() if v is not None}  # fmt: skip
    if state is not None:
        named |= {f"state.{part}": v for part, v in zip("hc", state, strict=True)}
    settings = {f.name: getattr(network, f.name) for f in fields(network) if f.name not in _LEFT_OUT}
    about = {"format": FORMAT, "version": VERSION, "network": settings}
    containers.write(path, {name: containers.host(v) for name, v in named.items()}, about)


def load(path):
    """Network and parameters of a file that `save` wrote.

    Everything that the file claims is checked before memory is taken for it. Nothing is unpickled.

    Parameters
    ----------
    path : str or path
        Ends in .safetensors or .npz.

    Returns
    -------
    network : LSTM
    params : tuple of Direction
        NumPy arrays.

    Raises
    ------
    ValueError
        If the file is damaged, of another format or version, or its arrays are not those of its configuration.

    See Also
    --------
    save : has an example.
    """
    network = _network(path)
    found = containers.entries(path)
    rules = {f"{place}.{name}": rule for index, place in enumerate(_places(network))
             for name, rule in shapes(network, index // network.num_directions).items()}  # fmt: skip
    _check(path, found, rules)
    others = [name for name in found if name not in rules and name not in _STATE]
    if others:
        raise FileError(f"{path}: {others[0]} is no array of the network that its configuration tells of.")
    arrays = containers.read(path, rules)
    params = tuple(
        Direction(**{name: arrays[f"{place}.{name}"] for name in shapes(network, index // network.num_directions)})
        for index, place in enumerate(_places(network))
    )
    return network, params


def load_state(path):
    """The state in a file that `save` wrote.

    Parameters
    ----------
    path : str or path
        Ends in .safetensors or .npz.

    Returns
    -------
    State or None
        NumPy arrays; None where no state was given.

    Raises
    ------
    ValueError
        As by `load`.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from lstm_xp import LSTM
    >>> from lstm_xp.weights import load_state, save
    >>> network = LSTM(3, 4)
    >>> params = network.init()
    >>> y, state, _ = network.forward(params, np.ones((1, 5, 3), dtype=np.float32))
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     save(Path(directory) / "stream.npz", network, params, state=state)
    ...     again = load_state(Path(directory) / "stream.npz")
    >>> bool(np.all(again.c == state.c))
    True
    """
    network, found = _network(path), containers.entries(path)
    if "state.h" not in found and "state.c" not in found:
        return None
    shape = found[min({"state.h", "state.c"} & set(found))].shape
    rules = {f"state.{part}": rule for part, rule in state_shapes(network, shape[1] if len(shape) == 3 else 0).items()}
    _check(path, found, rules)
    arrays = containers.read(path, rules)
    return State(arrays["state.h"], arrays["state.c"])


def recognises(path):
    """Whether `save` wrote the file."""
    about = containers.metadata(path)
    return isinstance(about, dict) and about.get("format") == FORMAT


def names(path):
    """The one network of the file, which has no name."""
    return [""] if recognises(path) else []


def read(path, name=None):
    """Network and parameters; see `load`."""
    tensors.one_of(str(path), names(path), name, "it was not written by lstm_xp.weights.save")
    return load(path)


def others(path, name=None):
    """A state, which `load_state` reads."""
    return [each for each in containers.entries(path) if each in _STATE]


def write(path, network, params):
    """Write a network; see `save`."""
    save(path, network, params, overwrite=True)


def _places(network):
    """layer0.forward, layer0.reverse, layer1.forward, ..."""
    ways = ("forward", "reverse") if network.bidirectional else ("reverse" if network.reverse else "forward",)
    return [f"layer{layer}.{way}" for layer in range(network.num_layers) for way in ways]


def _network(path):
    """The network that a file's configuration tells of."""
    about = containers.metadata(path)
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise FileError(f"{path}: its metadata do not say that it is an {FORMAT}.")
    if about.get("version") != VERSION:
        raise FileError(f"{path}: its version is {about.get('version')!r}; this release reads {VERSION}.")
    settings, known = about.get("network"), {f.name for f in fields(LSTM)} - set(_LEFT_OUT)
    if not isinstance(settings, dict) or not settings.keys() <= known:
        raise FileError(f"{path}: its configuration is none of a network.")
    try:
        if "activations" in settings:
            given = settings["activations"]
            settings["activations"] = tuple(kind if isinstance(kind, str) else tuple(kind) for kind in given)
        network = LSTM(**settings)
    except (ValueError, TypeError, OverflowError) as error:
        raise FileError(f"{path}: its configuration is none of a network: {error}") from None
    if network.num_layers * network.num_directions > len(containers.entries(path)):
        raise FileError(f"{path}: its configuration has {network.num_layers} layers, more than it has arrays for.")
    return network


def _check(path, found, rules):
    """Check shapes, and that there is one dtype."""
    first = None
    for name, (letters, numbers) in rules.items():
        if name not in found:
            raise FileError(f"{path}: {name} is missing; its configuration tells of {letters} = {numbers}.")
        entry = found[name]
        first = first or (name, entry.dtype)
        if entry.shape != numbers:
            raise FileError(
                f"{path}: {name} has shape {entry.shape}; its configuration tells of {letters} = {numbers}."
            )
        if entry.dtype != first[1]:
            raise FileError(f"{path}: {name} is {entry.dtype}, {first[0]} is {first[1]}: there must be one dtype.")


def _rows(state):
    """N of a state, as far as it has one."""
    h = state[0] if isinstance(state, tuple | list) and state else None
    found = tuple(getattr(h, "shape", ()))
    return found[1] if len(found) == 3 else 0
