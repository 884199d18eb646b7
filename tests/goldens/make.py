"""Writes goldens.json: inputs, outputs and all gradients of small LSTMs, exact to the last bit of a float64.

    python tests/goldens/make.py        (needs mpmath; takes about half a minute)

The outputs are those of the scalar LSTM of tests/oracle.py at 50 digits. The gradients are central differences of
its loss sum(dh * h) + sum(dh_n * h_n) + sum(dc_n * c_n), argument by argument, with steps of 1e-16: no backward pass is
involved. All gate blocks differ, all states and cotangents are non-zero.
"""

import copy
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
import oracle

FILE = Path(__file__).with_name("goldens.json")
ARGUMENTS = ("x", "h0", "c0", "Wx", "Wh", "b")

# The cases share their sizes, so that a library which compiles does so once. N, T, D and H differ.
SIZES = (4, 5, 3, 2)
CASES = {
    "plain": {},
    "one step": {"sizes": (4, 1, 3, 2)},
    "lengths": {"lengths": [3, 0, 5, 1]},
    "reverse": {"reverse": True},
    "reverse, lengths": {"lengths": [2, 5, 0, 3], "reverse": True},
    "saturated": {"bias": (60.0, -60.0, 12.0, -12.0, 0.0, 40.0)},
}


def inputs(case, seed):
    """Random numbers of three decimals: N, T, D and H differ, and no two of the gate blocks are alike."""
    (N, T, D, H), rng = case.get("sizes", SIZES), np.random.default_rng(seed)
    shapes = {
        "x": (N, T, D), "h0": (N, H), "c0": (N, H), "Wx": (D, 4 * H), "Wh": (H, 4 * H), "b": (4 * H,),
        "dh": (N, T, H), "dh_n": (N, H), "dc_n": (N, H),
    }  # fmt: skip
    values = {name: np.round(rng.normal(0.0, 0.8, shape), 3) for name, shape in shapes.items()}
    if "bias" in case:
        # The candidates (the last H) stay unsaturated.
        values["b"][: 3 * H] += np.resize(case["bias"], 3 * H)
    return {name: value.tolist() for name, value in values.items()}


def make(name, arguments=ARGUMENTS):
    """A case with its outputs, and the gradients of the named arguments."""
    from mpmath import mp

    case = CASES[name]
    lengths, reverse = case.get("lengths"), case.get("reverse", False)
    given = inputs(case, list(CASES).index(name))
    with mp.workdps(50):
        exact = {key: _each(value, mp.mpf) for key, value in given.items()}

        def outputs(values):
            h, h_n, c_n = oracle.lstm(*(values[key] for key in ARGUMENTS), lengths, reverse, mp)
            return {"h": h, "h_n": h_n, "c_n": c_n}

        def loss(values):
            return sum(
                cotangent * result
                for key, found in outputs(values).items()
                for cotangent, result in zip(_flat(exact[f"d{key}"]), _flat(found), strict=True)
            )

        gradients, step = {}, mp.mpf(10) ** -16
        for key in arguments:
            moved = copy.deepcopy(exact)
            gradients[f"d{key}"] = _derivatives(moved[key], lambda moved=moved: loss(moved), step)
        results = {**outputs(exact), **gradients}
        return {**given, "lengths": lengths, "reverse": reverse, **{key: _each(v, float) for key, v in results.items()}}


def _derivatives(values, loss, step):
    """Central differences with respect to every number in nested lists, which are moved in place."""
    if isinstance(values[0], list):
        return [_derivatives(part, loss, step) for part in values]
    result = []
    for k, value in enumerate(values):
        values[k] = value + step
        above = loss()
        values[k] = value - step
        below = loss()
        values[k] = value
        result.append((above - below) / (2 * step))
    return result


def _each(values, convert):
    return [_each(value, convert) for value in values] if isinstance(values, list) else convert(values)


def _flat(values):
    return [number for value in values for number in _flat(value)] if isinstance(values, list) else [values]


def write(cases, file):
    lines = (
        f"{json.dumps(name)}: {{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in case.items()) + "\n}"
        for name, case in cases.items()
    )
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    write({name: make(name) for name in CASES}, FILE)
