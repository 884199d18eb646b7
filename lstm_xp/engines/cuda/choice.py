"""Which engine for CuPy is the quickest at which size, as far as that has been measured.

The figures are those of `measured.json`, which `python -m benchmarks.gpu choice` makes from a file of results: for each
device, kind of numbers and size the engines that gave right numbers there, the quickest first. No GPU has been measured
yet, and it is empty. An engine that is not in it is not chosen by itself.
"""

import json
from functools import cache
from math import hypot, log2
from pathlib import Path

FILE = Path(__file__).with_name("measured.json")
FORMAT = "lstm_xp quickest engines, 1"
UNPROVED = "it has not been proved on a GPU yet"


def objection(engine, problem):
    """Why an engine, by its name, should not be chosen by itself; "" if it is the quickest of those that can run.

    What counts is the measured size nearest to the problem's, by the logarithms of N and H.
    """
    devices = measured()
    if not devices:
        return UNPROVED
    device = _name(problem.device.id)
    # Of the precisions, float32 alone has several.
    kind = problem.dtype, problem.precision if problem.dtype == "float32" else "ieee", problem.training
    names = "dtype", "precision", "training"
    points = [point for point in devices.get(device, ()) if tuple(point[name] for name in names) == kind]
    if not any(engine in point["engines"] for point in points):
        return f"it has not been proved on a device like this one ({device}), for {kind[0]}"
    point = min(points, key=lambda point: hypot(log2(point["N"] / problem.N), log2(point["H"] / problem.H)))
    for quicker in point["engines"]:
        if quicker == engine:
            return ""
        if not _refuses(quicker, problem):
            return f"{quicker} is quicker at N = {point['N']}, H = {point['H']} on this device"
    return f"it is not among the engines measured at N = {point['N']}, H = {point['H']} on this device"


@cache
def measured():
    """Device -> what was measured there."""
    found = json.loads(FILE.read_text(encoding="utf-8"))
    if found["format"] != FORMAT:
        raise ValueError(f"{FILE}: its format is not {FORMAT!r}")
    return {device: entry["quickest"] for device, entry in found["devices"].items()}


def _refuses(engine, problem):
    from .. import load

    return load(engine, problem.precision).refuses(problem)


@cache
def _name(device_id):
    from cupy.cuda import runtime

    return runtime.getDeviceProperties(device_id)["name"].decode()
