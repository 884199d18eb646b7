"""Prove every engine on this machine: forward and gradients, on each array library and device found.

Each engine runs random problems (one row, odd sizes, lengths with an empty row, reversed, no step at all) in every
dtype that its library has. Outputs and all six gradients are compared with a float64 reference, row by row; and in
float64, the gradients with central differences of the very same engine along random directions. So are those of the
cell variants, where an engine computes them. Figures are the worst error as a share of its limit: up to 1.00 passes.

exit status: 0 all passed, 1 something is wrong, 2 there is nothing to check
"""

import os
import sys
from typing import NamedTuple

import numpy as np

from .. import checks, engines, libraries, testing
from ..layers import LSTM
from ..parameters import Direction, State
from ..records import SequenceCache
from ..sequence import lstm_backward, lstm_forward
from . import values


class Case(NamedTuple):
    """One problem: sizes, lengths, direction; and the settings of an `LSTM` if the cell is not the plain one."""

    N: int
    T: int
    D: int
    H: int
    lengths: tuple | None = None
    reverse: bool = False
    cell: dict | None = None


# Few different sizes: libraries that compile do so for each.
CASES = (
    Case(4, 6, 3, 33),
    Case(4, 6, 3, 33, reverse=True),
    Case(4, 6, 3, 33, (6, 2, 0, 5)),
    Case(4, 6, 3, 33, (1, 0, 6, 4), reverse=True),
    Case(1, 24, 65, 64),
    Case(0, 6, 3, 33),
    Case(4, 0, 3, 33),
)
DIFFERENCES = CASES[2:4]
# Between them, all that a cell can be, but for what has no derivative somewhere (clipping), and random masks.
VARIANT = Case(4, 6, 3, 33, (6, 2, 0, 5), cell={"proj_size": 5, "peepholes": True, "zoneout_h": 0.2, "zoneout_c": 0.3})
# Normalisation makes errors of rounding as large as it likes, where numbers are nearly alike: differences alone.
NORMALISED = Case(4, 2, 20, 65, reverse=True, cell={
    "coupled": True, "layer_norm": True, "activations": ("Sigmoid", ("ScaledTanh", 1.3, 0.7), "Tanh"),
})  # fmt: skip
ARGUMENTS = ("x", "h0", "c0", "Wx", "Wh", "b")
OUTPUTS = ("h", "h_n", "c_n")


def add_arguments(parser):
    """Declare the command's arguments."""
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        help="check the libraries on this device only (default: all that are found)",
    )
    parser.add_argument(
        "--library",
        dest="array_library",
        metavar="LIBRARY",
        action="append",
        choices=tuple(libraries.LIBRARIES),
        help="check this array library only: %(choices)s; may be given several times (default: all that are found)",
    )
    parser.add_argument("--seed", type=values.seed, default=0, help="of the random problems (default: %(default)s)")


def run(args):
    """Run the command; the exit status."""
    # In a process of its own, JAX can be given float64, which it leaves out by default.
    os.environ.setdefault("JAX_ENABLE_X64", "1")
    names = args.array_library or [name for name in libraries.LIBRARIES if _on(name, args.device)]
    print(f"{'library':18}{'device':14}{'engine':14}{'dtype':10}{'forward':>9}{'gradients':>11}{'differences':>13}")
    checked, failures, missing = 0, [], []
    for name in names:
        try:
            library = libraries.open_library(name)
        except libraries.Missing as reason:
            missing.append(f"not checked: {name}, {reason}")
            continue
        for engine in engines.candidates(checks.array_library(library.xp)):
            for dtype in library.dtypes():
                try:
                    line = _check(library, engine, dtype, args.seed)
                except engines.EngineError as refusal:
                    missing.append(f"not checked: {name}, {dtype}: {refusal}")
                    continue
                except Exception as error:  # whatever an engine does, the others are still checked
                    line, wrong = "", f"{type(error).__name__}: {error}".splitlines()[0]
                    failures.append(f"FAILED: {name}, {engine}, {dtype}: {wrong}")
                    line = f"{'FAILED':>9}"
                checked += 1
                print(f"{name:18}{library.place:14}{engine:14}{dtype:10}{line}", flush=True)
    for line in missing:
        print(line)
    for line in failures:
        print(line, file=sys.stderr)
    if not checked:
        where = args.device or ", ".join(names)
        print(f"lstm-xp check: nothing found to check ({where})", file=sys.stderr)
        return 2
    print(f"{checked} combinations checked, {len(failures)} failed")
    return 1 if failures else 0


def _on(name, device):
    cuda = name in ("cupy", "torch-cuda")
    return device is None or cuda == (device == "cuda")


def _check(library, engine, dtype, seed):
    """One line of the table; AssertionError where something is wrong."""
    variants = (VARIANT, NORMALISED) if hasattr(engines.load(engine), "cells") else ()
    shares = [compare(library, engine, dtype, case, seed) for case in (*CASES, *variants[:1])]
    forward, gradient = (max(column) for column in zip(*shares, strict=True))
    differences = "-"
    if dtype == "float64":
        worst = max(
            error for case in (*DIFFERENCES, *variants) for error in prove(library, engine, case, seed).values()
        )
        differences = f"{worst / testing.DERIVATIVE_LIMITS['difference']:.2f}"
    return f"{forward:9.2f}{gradient:11.2f}{differences:>13}"


def draw(case, seed):
    """Random arguments and cotangents of a case, float64 NumPy arrays, nothing of them zero."""
    rng = np.random.default_rng([seed, case.N, case.T, case.D, case.H])
    N, T, D, H = case[:4]
    cell = case.cell or {}
    R = cell.get("proj_size", H)
    shapes = {"x": (N, T, D), "h0": (N, R), "c0": (N, H), "Wx": (D, 4 * H), "Wh": (R, 4 * H), "b": (4 * H,)}
    shapes |= {"Wp": (H, R)} if R < H else {}
    shapes |= {"peepholes": (3, H)} if cell.get("peepholes") else {}
    if cell.get("layer_norm"):
        shapes |= {"gain_x": (4 * H,), "gain_h": (4 * H,), "gain_c": (H,), "bias_c": (H,)}
    scales = {"Wx": D**-0.5, "Wh": R**-0.5, "Wp": H**-0.5}
    arguments = {name: rng.standard_normal(shape) * scales.get(name, 1) for name, shape in shapes.items()}
    cotangents = tuple(rng.standard_normal(shape) for shape in ((N, T, R), (N, R), (N, H)))
    return arguments, cotangents


def forward_of(case, engine):
    """The forward pass of a case, as `testing.check_gradients` wants it."""

    def forward(x, h0, c0, Wx, Wh, b, **more):
        options = {"lengths": case.lengths, "reverse": case.reverse, "engine": engine}
        if case.cell is None:
            h, cache = lstm_forward(x, h0, Wx, Wh, b, c0=c0, **options)
            return (h, cache.h_n, cache.c_n), cache
        network = LSTM(case.D, case.H, reverse=case.reverse, engine=engine, **case.cell)
        params, state = (Direction(Wx, Wh, b, **more),), State(h0[None, ...], c0[None, ...])
        y, state, cache = network.forward(params, x, state, lengths=case.lengths)
        return (y, state.h[0, ...], state.c[0, ...]), cache

    return forward


def backward(cotangents, cache):
    """The backward pass, as `testing.check_gradients` wants it."""
    dh, dh_n, dc_n = cotangents
    if isinstance(cache, SequenceCache):
        found = lstm_backward(dh, cache, dh_n=dh_n, dc_n=dc_n)
        return {name: getattr(found, f"d{name}") for name in ARGUMENTS}
    dx, dstate, (dparams,) = cache.network.backward(dh, cache, dstate=State(dh_n[None, ...], dc_n[None, ...]))
    gradients = {"x": dx, "h0": dstate.h[0, ...], "c0": dstate.c[0, ...]} | dparams._asdict()
    return {name: gradient for name, gradient in gradients.items() if gradient is not None}


def compare(library, engine, dtype, case, seed):
    """Outputs and gradients against the float64 reference: the worst errors as shares of their limits."""
    arguments, cotangents = draw(case, seed)
    arguments = {name: library.asarray(value, dtype) for name, value in arguments.items()}
    cotangents = tuple(library.asarray(value, dtype) for value in cotangents)
    outputs, cache = forward_of(case, engine)(**arguments)
    gradients = backward(cotangents, cache)

    exact = {name: library.to_numpy(value).astype(np.float64) for name, value in arguments.items()}
    expected, exact_cache = forward_of(case, "array_api")(**exact)
    exact_cotangents = tuple(library.to_numpy(value).astype(np.float64) for value in cotangents)
    expected_gradients = backward(exact_cotangents, exact_cache)
    forward_share = max(
        testing.assert_close(actual, value, like=arguments["x"], steps=case.T, name=name)
        for name, actual, value in zip(OUTPUTS, outputs, expected, strict=True)
    )
    gradient_share = max(
        testing.assert_close(
            gradients[name], value, like=arguments["x"], kind="gradient", steps=case.T, name=f"d{name}"
        )
        for name, value in expected_gradients.items()
    )
    return forward_share, gradient_share


def prove(library, engine, case, seed):
    """Gradients against central differences of the same engine in float64: the worst error of each."""
    arguments, _ = draw(case, seed)
    arguments = {name: library.asarray(value) for name, value in arguments.items()}
    return testing.check_gradients(forward_of(case, engine), backward, arguments, directions=1, seed=seed)
