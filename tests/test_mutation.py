"""Planted bugs: each must be caught by the checks that the other tests use (proofs.py).

A mutant is a copy of the package with pieces of its source replaced. The table of which check catches which mutant:

    python tests/test_mutation.py
"""

import importlib
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import proofs
import pytest

import lstm_xp
from lstm_xp.engines import numpy_numba
from lstm_xp.libraries import open_library

CHECKS = {
    "goldens": proofs.goldens,
    "loop of steps": proofs.steps_in_a_loop,
    "derivatives": proofs.derivatives,
    "step derivatives": lambda package, lib, engine: proofs.step_derivatives(package, lib),
    "nothing modified": proofs.nothing_modified,
    "padding unseen": proofs.padding_unseen,
    "empty rows": proofs.empty_rows,
    "NaN stays": proofs.not_a_number_stays,
    "split in time": proofs.split_in_time,
    "chunks": proofs.chunks_are_seamless,
    "variant outputs": proofs.variant_outputs,
    "variant derivatives": proofs.variant_derivatives,
}

FUSED, ANY, BOTH = ("numpy_fused",), ("array_api",), ("numpy_fused", "array_api")
COMPILED = ("numpy_numba",)  # few: each is compiled anew
CELL, STAGES, TIMELINE = "cell.py", "stages.py", "timeline.py"
FUSED_FILE, ANY_FILE = "engines/numpy_fused.py", "engines/array_api.py"
GLUE, VARIANT_CELLS = "engines/numpy_numba.py", "variant_cells.py"
CELLS, FORWARDS, PRODUCTS, VARIANTS, NORMS = (
    f"engines/compiled/{name}.py" for name in ("cells", "forward", "products", "variants", "norms")
)

# What is planted -> the engines it shows with, a check that must catch it, and (file, what stands there, what instead).
MUTANTS = {
    "gates i and o swapped, in forward and backward alike": (
        ANY,
        "goldens",
        (CELL, "a_i, a_f, a_o, a_g = split(a)", "a_o, a_f, a_i, a_g = split(a)"),
        (CELL, "xp.concat([da_i, da_f, da_o, da_g]", "xp.concat([da_o, da_f, da_i, da_g]"),
    ),
    "gates f and o swapped, forward": (
        ANY,
        "goldens",
        (CELL, "a_i, a_f, a_o, a_g = split(a)", "a_i, a_o, a_f, a_g = split(a)"),
    ),
    "gates i and f swapped, backward": (
        ANY,
        "derivatives",
        (CELL, "xp.concat([da_i, da_f, da_o, da_g]", "xp.concat([da_f, da_i, da_o, da_g]"),
    ),
    "gates i and f swapped (fused)": (
        FUSED,
        "goldens",
        (FUSED_FILE, "np.multiply(i_f, g_c, out=both)", "np.multiply(i_f[::-1], g_c, out=both)"),
    ),
    "gates i and f swapped (compiled)": (
        COMPILED,
        "goldens",
        (CELLS, "c = f * load(prev_c, prev, count) + i * g", "c = i * load(prev_c, prev, count) + f * g"),
    ),
    "carry of dprev_c lost (compiled)": (
        COMPILED,
        "derivatives",
        (CELLS, "store(dc, y, dc_j * f, count)", "store(dc, y, dc_j - dc_j, count)"),
    ),
    "h_t for h_{t-1} (compiled)": (
        COMPILED,
        "loop of steps",
        (FORWARDS, "(states, (t - 1) * h_t + n0 * h_n, h_n)", "(states, t * h_t + n0 * h_n, h_n)"),
    ),
    "h_t for h_{t-1} in dWh (compiled)": (
        COMPILED,
        "derivatives",
        (PRODUCTS, "spread(h, (t - 1) * h_t + n * h_n", "spread(h, t * h_t + n * h_n"),
    ),
    "h0 forgotten in dWh (compiled)": (COMPILED, "derivatives", (PRODUCTS, "elif t == 0:", "elif t < 0:")),
    "padding takes part in the recurrence (compiled)": (
        COMPILED,
        "loop of steps",
        (FORWARDS, "t >= lengths[n0 + r]:", "t > lengths[n0 + r]:"),
    ),
    "a row is left out a step too early (compiled)": (
        COMPILED,
        "loop of steps",
        (FORWARDS, "lengths[n1 - 1] <= t:", "lengths[n1 - 1] <= t + 1:"),
    ),
    "carry of dprev_c lost": (ANY, "derivatives", (ANY_FILE, "dh_t, dc_t = dprev_h, dprev_c", "dh_t = dprev_h")),
    "carry of dprev_c lost (fused)": (
        FUSED,
        "derivatives",
        (FUSED_FILE, "np.multiply(dc_units, f, out=dc_units)", "np.multiply(dc_units, 0, out=dc_units)"),
    ),
    "carry of dprev_h lost": (
        ANY,
        "derivatives",
        (ANY_FILE, "dprev_h = xp.matmul(da, weights.T)", "dprev_h = 0 * xp.matmul(da, weights.T)"),
    ),
    "carry of dprev_h lost (fused)": (
        FUSED,
        "derivatives",
        (FUSED_FILE, "np.dot(weights, da_t, out=dh_t)", "np.multiply(dh_t, 0, out=dh_t)"),
    ),
    "dc of the step itself lost in dprev_c": (ANY, "derivatives", (CELL, "axis=-1), dc, dc * f", "axis=-1), dc, dc")),
    "next_h for prev_h in dWh": (
        ANY,
        "derivatives",
        (STAGES, "xp.concat([x, prev_h,", "xp.concat([x, h,"),
    ),
    "next_h for prev_h in dWh of a step": (
        ANY,
        "step derivatives",
        (CELL, "dWh=xp.matmul(wide(prev_h).T, da)", "dWh=xp.matmul((o * xp.tanh(c)).T, da)"),
    ),
    "next_h for prev_h in dWh (fused)": (
        FUSED,
        "derivatives",
        (
            FUSED_FILE,
            "inputs[1:count, :, D:-1] = h[start : stop - 1]",
            "inputs[1:count, :, D:-1] = h[start + 1 : stop]",
        ),
    ),
    "h0 forgotten in dWh (fused)": (
        FUSED,
        "derivatives",
        (FUSED_FILE, "inputs[0, :, D:-1] = prev_h", "inputs[0, :, D:-1] = 0"),
    ),
    "dx off by a thousandth (fused)": (
        FUSED,
        "derivatives",
        (FUSED_FILE, "weights = Wx.T.astype", "weights = (Wx * 1.001).T.astype"),
    ),
    "h0 forgotten in dWh": (
        ANY,
        "derivatives",
        (STAGES, "xp.concat([wide(h0)[None, ...]", "xp.concat([0 * wide(h0)[None, ...]"),
    ),
    "dh0 is dh_n": (
        BOTH,
        "derivatives",
        (STAGES, "(straight(dh_n), dh0)", "(straight(dh_n), straight(dh_n))"),
    ),
    "dh0 and dc0 swapped": (
        ANY,
        "derivatives",
        (STAGES, "da, dh0, dc0 = engine.backward", "da, dc0, dh0 = engine.backward"),
    ),
    "dh0 and dc0 swapped (fused)": (
        FUSED,
        "derivatives",
        (STAGES, "dx, dh0, dWx, dWh, db, dc0 = engine", "dx, dc0, dWx, dWh, db, dh0 = engine"),
    ),
    "c0 forgotten in da_f": (ANY, "derivatives", (ANY_FILE, "c[t - 1, ...] if t > 0 else c0", "c[t - 1, ...]")),
    "c0 forgotten in da_f (fused)": (
        FUSED,
        "derivatives",
        (FUSED_FILE, "if start > 0 else (h0, c0)", "if start > 0 else (h0, 0 * c0)"),
    ),
    "dh_n written to": (
        FUSED,
        "nothing modified",
        (FUSED_FILE, 'np.array(v.T, c0.dtype, order="C")', 'np.array(v.__imul__(2).T, c0.dtype, order="C")'),
    ),
    "cache written to by backward": (
        FUSED,
        "nothing modified",
        (FUSED_FILE, "np.tanh(c, out=by_h)", "by_h[...] = np.tanh(c, out=c)"),
    ),
    "x written to": (
        BOTH,
        "nothing modified",
        (STAGES, "whole = hasattr(chosen,", "x *= 2; whole = hasattr(chosen,"),
    ),
    "h in a buffer that the next call writes to": (
        FUSED,
        "nothing modified",
        (
            STAGES,
            "h = xp.empty((stop - start, N, H), dtype=prev_h.dtype, device=timeline.device)",
            "h = KEPT.setdefault((stop, N, H), xp.empty((stop - start, N, H), dtype=prev_h.dtype))",
        ),
        (STAGES, "CHUNK, DEVICE_CHUNK = 1 << 22, 1 << 26", "CHUNK, DEVICE_CHUNK, KEPT = 1 << 22, 1 << 26, {}"),
    ),
    "padding of x and dh leaks in": (
        BOTH,
        "padding unseen",
        (TIMELINE, "return self.zero_padding(v, start)", "return v"),
    ),
    "padding takes part in the recurrence": (
        ANY,
        "loop of steps",
        (STAGES, "return xp.where(timeline.valid(a.shape[0], start), a, xp.concat(values))", "return a"),
    ),
    "padding takes part in the recurrence (fused)": (
        FUSED,
        "loop of steps",
        (FUSED_FILE, "np.arange(T)[:, None] >= lengths", "np.arange(T)[:, None] > lengths"),
    ),
    "forget gate open behind the lengths (fused)": (
        FUSED,
        "loop of steps",
        (FUSED_FILE, "[-big, big, -big, 0]", "[-big, -big, -big, 0]"),
    ),
    "forget gate open behind the lengths": (
        ANY,
        "loop of steps",
        (STAGES, "(-big, big, -big, 0.0)", "(-big, -big, -big, 0.0)"),
    ),
    "dh_n enters at the last step, whatever the length": (
        BOTH,
        "derivatives",
        (TIMELINE, "== self.lengths[None, :, None] - 1", "== self.T - 1"),
    ),
    "final h taken at the last step, whatever the length": (
        BOTH,
        "goldens",
        (TIMELINE, "place = self.lengths - 1 - start", "place = 0 * self.lengths + self.T - 1 - start"),
    ),
    "states of empty rows forgotten": (
        BOTH,
        "empty rows",
        (TIMELINE, "(self.lengths == 0)[:, None]", "(self.lengths < 0)[:, None]"),
    ),
    "h of a reversed sequence left reversed": (
        BOTH,
        "goldens",
        (TIMELINE, "v = self.xp.flip(v, axis=0)\n        return", "pass\n        return"),
    ),
    "lengths ignored in a reversal": (
        BOTH,
        "goldens",
        (TIMELINE, "self.lengths[None, :] - 1 - time, time)", "self.T - 1 - time, time)"),
    ),
    "sign of da_f": (ANY, "derivatives", (CELL, "da_f = dc * prev_c", "da_f = -dc * prev_c")),
    "1 - g^2 lost": (ANY, "derivatives", (CELL, "da_g = dc * i * (1 - g * g)", "da_g = dc * i")),
    "1 - g^2 lost (fused)": (FUSED, "derivatives", (FUSED_FILE, "np.subtract(i, by_g, out=by_g)", "by_g[...] = i")),
    "tanh for tanh^2": (ANY, "derivatives", (CELL, "(1 - tanh_c * tanh_c)", "(1 - tanh_c)")),
    "dh forgotten in dc": (ANY, "derivatives", (CELL, "dc = dc + dh * o", "dc = dc + 0 * dh * o")),
    "db misses a step": (
        ANY,
        "derivatives",
        (STAGES, "dW[D + H, ...]", "xp.sum(rows_of(da[1:, ...], xp), axis=0)"),
    ),
    "dWx misses a step": (
        ANY,
        "derivatives",
        (
            STAGES,
            "axis=-1), xp).T, flat)",
            "axis=-1), xp).T[:, 1:], flat[1:, ...])",
        ),
    ),
    "dc_n ignored": (BOTH, "derivatives", (STAGES, "return dh, dh_n, dc_n", "return dh, dh_n, None")),
    "dh_n ignored": (BOTH, "derivatives", (STAGES, "return dh, dh_n, dc_n", "return dh, None, dc_n")),
    "dc_n ignored with lengths": (BOTH, "derivatives", (STAGES, "return dh, None, dc_n", "return dh, None, None")),
    "dx off by a thousandth": (
        ANY,
        "derivatives",
        (STAGES, "product(flat, Wx.T)", "product(flat, Wx.T * 1.001)"),
    ),
    "bias added twice (fused)": (FUSED, "goldens", (FUSED_FILE, "a += b\n", "a += 2 * b\n")),
    "bias added twice": (
        ANY,
        "goldens",
        (STAGES, "None if b is None else wide(b))", "None if b is None else 2 * wide(b))"),
    ),
    "NaN becomes a number": (
        ANY,
        "NaN stays",
        (CELL, "c = f * prev_c + i * g", "c = xp.where(prev_c == prev_c, f * prev_c + i * g, i * g)"),
    ),
    "NaN becomes a number (fused)": (
        FUSED,
        "NaN stays",
        (
            FUSED_FILE,
            "np.add(gates, z, out=gates)",
            "np.nan_to_num(np.add(gates, z, out=gates), copy=False)",
        ),
    ),
    "state not handed from chunk to chunk": (
        BOTH,
        "chunks",
        (STAGES, "h, c = part[-1, ...], last_c", "h, c = part[0, ...], last_c"),
    ),
    "chunks of a reversed sequence in the wrong place": (
        ANY,
        "chunks",
        (TIMELINE, "out[self.T - stop : self.T - start, ...] = self.xp.flip(v, axis=0)", "out[start:stop, ...] = v"),
    ),
    "final state of a split sequence is that before the last step": (
        BOTH,
        "split in time",
        (TIMELINE, "return v[-1, ...]", "return v[max(0, v.shape[0] - 2), ...]"),
    ),
    "the peephole of o sees the old cell state": (
        ANY,
        "variant outputs",
        (VARIANT_CELLS, "p.peepholes[2, :] * c", "p.peepholes[2, :] * prev_c"),
    ),
    "the peephole of o sees the old cell state (compiled)": (
        COMPILED,
        "variant outputs",
        (VARIANTS, "load(peep, 2 * H + j, count) * new", "load(peep, 2 * H + j, count) * old"),
    ),
    "states behind the lengths are not held (compiled)": (
        COMPILED,
        "variant outputs",
        (FORWARDS, "lengths[n1 - 1] <= t:", "lengths[n1 - 1] < t:"),
        (VARIANTS, "lengths[n] <= t:", "lengths[n] < t:"),
    ),
    "variance without epsilon (compiled)": (
        COMPILED,
        "variant outputs",
        (NORMS, "/ count + epsilon)", "/ count)"),
    ),
    "zoneout forgotten in dc": (
        ANY,
        "variant derivatives",
        (VARIANT_CELLS, "dprev_c = dprev_c + masks.zoneout_c * dc", "dprev_c = dprev_c + 0 * dc"),
    ),
    "zoneout forgotten in dc (compiled)": (
        COMPILED,
        "variant derivatives",
        (VARIANTS, "dc = dnew * f + k * dc", "dc = dnew * f"),
    ),
    "coupled f forgotten in di (compiled)": (
        COMPILED,
        "variant derivatives",
        (VARIANTS, "dnew * (g - old) * s_i", "dnew * g * s_i"),
    ),
    "dropped h gets a gradient (compiled)": (
        COMPILED,
        "variant derivatives",
        (VARIANTS, "d = d * load(mask, y, count)", "d = d + d - d"),
    ),
    "a normalised vector may change its length (compiled)": (
        COMPILED,
        "variant derivatives",
        (NORMS, "- mean - load(hat, place + j, left) * along)", "- mean)"),
    ),
    "gradients behind the lengths (compiled)": (
        COMPILED,
        "variant derivatives",
        (VARIANTS, "fill(a_, 4 * x, K, one - one)", "fill(a_, 4 * x, K, one)"),
    ),
    "zoneout of h and of c swap their rates (compiled)": (
        COMPILED,
        "variant outputs",
        (GLUE, "clip, *rates, EPSILON]", "clip, *list(rates)[::-1], EPSILON]"),
    ),
}
CASES = [(name, engine) for name, (engines, *_) in MUTANTS.items() for engine in engines]


def plant(name, folder):
    """A copy of the package with the named bug, imported under a name of its own."""
    _, _, *changes = MUTANTS[name]
    package = f"lstm_xp_mutant_{list(MUTANTS).index(name)}"
    shutil.copytree(Path(lstm_xp.__file__).parent, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file, old, new in changes:
        path = folder / package / file
        source = path.read_text(encoding="utf-8")
        assert old in source, f"{file} has no {old!r}"
        path.write_text(source.replace(old, new), encoding="utf-8")
    sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module(package)
        for part in (*ENGINE_MODULES, "sequence", "variants"):
            importlib.import_module(f"{package}.{part}")
    finally:
        sys.path.remove(str(folder))
    return module


ENGINE_MODULES = ("engines.array_api", "engines.numpy_fused", "engines.numpy_numba")


def forget(package):
    for name in [name for name in sys.modules if name.partition(".")[0] == package.__name__]:
        del sys.modules[name]


def caught_by(package, engine, checks=tuple(CHECKS)):
    """The names of the checks that fail."""
    lib, names = open_library("numpy"), []
    for name in checks:
        try:
            CHECKS[name](package, lib, engine)
        except Exception:
            names.append(name)
    return names


def test_the_package_itself_passes_every_check(engine):
    assert caught_by(lstm_xp, engine) == []


@pytest.mark.parametrize(("name", "on"), CASES, ids=[f"{name}-{engine}" for name, engine in CASES])
def test_mutant_is_caught(name, on, tmp_path):
    _, check, *_ = MUTANTS[name]
    if on in COMPILED and numpy_numba.obstacle():
        pytest.skip(numpy_numba.obstacle())
    package = plant(name, tmp_path)
    try:
        with pytest.raises((AssertionError, RuntimeWarning)):
            CHECKS[check](package, open_library("numpy"), on)
    finally:
        forget(package)


def test_every_check_catches_something():
    assert {check for _, check, *_ in MUTANTS.values()} == set(CHECKS)


def table():
    warnings.simplefilter("error")
    width = max(map(len, MUTANTS))
    for name, engine in CASES:
        with tempfile.TemporaryDirectory() as folder:
            package = plant(name, Path(folder))
            found = caught_by(package, engine)
            forget(package)
        print(f"{name:{width}}  {engine:11}  {', '.join(found) or 'NOT CAUGHT'}", flush=True)


if __name__ == "__main__":
    table()
