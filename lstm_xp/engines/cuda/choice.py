"""Which engine for CuPy is the quickest at which size, as far as that has been measured.

The figures are those of `measured.json`, which `python -m benchmarks.gpu choice` makes from files of results: for each
device, kind of numbers and size the engines that gave right numbers there, the quickest first. And those of the user's
own file, which `lstm-xp tune` makes; they come first. A device of another name counts as one that was measured, if it
has the same compute capability and as many multiprocessors. An engine that is not in the table is not chosen by itself.
"""

import json
import warnings
from functools import cache, lru_cache
from math import hypot, log2
from pathlib import Path

from .device import chip

FILE = Path(__file__).with_name("measured.json")
FORMAT = "lstm_xp quickest engines, 2"
# What a point has beside its engines.
POINT = "dtype", "precision", "training", "N", "H"


def objection(engine, problem):
    """Why an engine, by its name, should not be chosen by itself; "" if it is the quickest of those that can run.

    What counts is the measured size nearest to the problem's, by the logarithms of N and H.
    """
    device = problem.device.id
    # Of the precisions, float32 alone has several; 'tf32x3' counts as IEEE, to which it is an alternative.
    tf32 = problem.dtype == "float32" and problem.precision == "tf32"
    kind = problem.dtype, "tf32" if tf32 else "ieee", problem.training
    known, point = _nearest(device, kind, problem.N, problem.H)
    if engine not in known:
        return f"it has not been proved on a device like this one ({chip(device).name}), for {kind[0]}"
    for quicker in point["engines"]:
        if quicker == engine:
            return ""
        if not _refuses(quicker, problem):
            return f"{quicker} is quicker at N = {point['N']}, H = {point['H']} on this device"
    return f"it is not among the engines measured at N = {point['N']}, H = {point['H']} on this device"


@cache
def measured():
    """Device -> what was measured there."""
    found, own = read(FILE)["devices"], own_file()
    if own is None:
        return found
    try:
        devices = {name: _known(entry) for name, entry in read(own)["devices"].items()}
    except FileNotFoundError:
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        warnings.warn(f"{own} is left out, for it cannot be read: {error!r}", RuntimeWarning, stacklevel=2)
        return found
    return devices | {name: entry for name, entry in found.items() if name not in devices}


def _known(entry):
    """What a user's file has for a device, without engines of other versions."""
    from .. import names

    points = []
    for point in entry["quickest"]:
        known = [name for name in point["engines"] if name in names()]
        points.append({name: point[name] for name in POINT} | {"engines": known})
    return {"capability": entry["capability"], "processors": entry["processors"], "quickest": points}


def read(file):
    """A table from its file."""
    found = json.loads(file.read_text(encoding="utf-8"))
    if found["format"] != FORMAT:
        raise ValueError(f"{file}: its format is not {FORMAT!r}")
    return found


def own_file():
    """The user's file; None where nobody's home is known."""
    try:
        return Path.home() / ".cache" / "lstm_xp" / "engines.json"
    except RuntimeError:
        return None


def entry(device_id, source, points):
    """What the table has for a device."""
    has = chip(device_id)
    like = {"capability": str(has.capability), "processors": has.processors}
    return {has.name: like | {"from": source, "quickest": points}}


@lru_cache(maxsize=1024)
def _nearest(device_id, kind, N, H):
    """The engines that were measured for a kind of numbers on a device, and the point nearest to a size, or None."""
    has, devices = chip(device_id), measured()
    kin = str(has.capability), has.processors
    like = (entry for entry in devices.values() if (entry["capability"], entry["processors"]) == kin)
    entry = devices.get(has.name) or next(like, {"quickest": ()})
    points = [point for point in entry["quickest"] if (point["dtype"], point["precision"], point["training"]) == kind]
    known = frozenset(engine for point in points for engine in point["engines"])
    return known, min(points, key=lambda point: hypot(log2(point["N"] / max(N, 1)), log2(point["H"] / H)), default=None)


def _refuses(engine, problem):
    from .. import load

    return load(engine, problem.precision).refuses(problem)


def forget():
    """Read the table, and ask devices, anew."""
    for kept in (measured, _nearest, chip):
        kept.cache_clear()
