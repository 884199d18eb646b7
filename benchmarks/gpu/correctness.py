"""Every engine, by name, in every kind of numbers, over awkward shapes: outputs and all gradients against float64.

What an engine returns lies in memory that was NaN before, so that what it leaves unwritten shows. Each run is done
twice, the second time with another problem's between its forward and its backward pass, and has to give the same bits;
the arguments, and what the first run returned, have to be what they were. The float64 reference is the reference
engine's on the same device: itself, it is compared with NumPy's first.
"""

from functools import lru_cache
from importlib.util import find_spec

from lstm_xp import checks, engines
from lstm_xp.libraries import to_numpy
from lstm_xp.testing import relative_error

from ..reference import WrongNumbers
from ..worker import one_line
from . import comparing, sizes

# The shape at which the device's float64 reference is compared with NumPy's.
PROVED = (33, 33, 65, 129)
# The reference engine has no kernels of its own: it is compared at every so manieth shape.
SELDOM = 5


def units(place):
    """One per shape, engine and kind; the reference before all."""
    shapes = sizes.REHEARSED["awkward"] if place.rehearsal else sizes.AWKWARD
    found = [{"size": list(PROVED), "engine": "array_api", "kind": "reference"}]
    names = engines.candidates(place.array_library)
    return found + [
        {"size": list(size), "engine": name, "kind": kind}
        for number, size in enumerate(shapes)
        for kind in sizes.KINDS  # those of one dtype follow each other, and share its reference
        for name in names
        if name != "array_api" or number % SELDOM == 0
    ]


def run(unit, place):
    """One record: the worst share of a limit, or what is wrong, or why the engine does not run this."""
    size, kind, engine = tuple(unit["size"]), unit["kind"], unit["engine"]
    try:
        if kind == "reference":
            return [_prove_reference(size, place)]
        reason = refusal(engine, kind, size, place)
        return [{"refused": reason} if reason else _compare(engine, kind, size, place)]
    except WrongNumbers as wrong:
        return [{"wrong": str(wrong)}]
    except Exception as error:
        if place.broken(error):
            raise
        return [{"wrong": f"gave no result: {one_line(error)}"}]


@lru_cache(maxsize=1)
def _drawn(size):
    return comparing.draw(size, "float32")


@lru_cache(maxsize=1)
def _problem(size, dtype, place):
    """Arguments and cotangents of a dtype on the device, and what they give in float64."""
    arrays = {name: place.array(value, dtype) for name, value in _drawn(size).items()}
    return arrays, comparing.reference(arrays)


def _prove_reference(size, place):
    """NumPy's float64 numbers and those of the device, by the reference engine."""
    values = comparing.draw(size)
    expected = comparing.run(values, engine="array_api")
    results = comparing.reference({name: place.array(value) for name, value in values.items()})
    found = {name: relative_error(to_numpy(results[name]), expected[name]) for name in results}
    own = comparing.shares(results, {k: place.array(v) for k, v in expected.items()}, "float64", size[1], place.xp)
    for name, share in own.items():
        if not share <= 1:
            raise WrongNumbers(f"{name} of the float64 reference differs from NumPy's: error {found[name]:.1e}")
    return {"share": max(own.values()), "errors": found}


def refusal(name, kind, size, place):
    """Why an engine cannot run it; "" if it can."""
    numbers, (N, T, D, H) = sizes.KINDS[kind], size
    engine = engines.load(name, numbers.precision)
    if kind == "tf32" and engines.load(name) is engine:
        return "it has IEEE products only"
    if kind == "bfloat16" and not find_spec("ml_dtypes"):
        return "bfloat16 needs ml_dtypes, which is not installed"
    device = place.xp.cuda.Device() if place.array_library == "cupy" else "cpu"
    problem = checks.Problem(place.array_library, numbers.dtype, device, N, T, D, H, True, numbers.precision)
    return engine.refuses(problem)


def _compare(engine, kind, size, place):
    xp, numbers, (N, T, D, H) = place.xp, sizes.KINDS[kind], size
    given, expected = _problem(size, numbers.dtype, place)
    place.forget()
    # Copies: who writes into its arguments must not spoil those of the next.
    arrays = {name: array.copy() for name, array in given.items()}
    inference = {name: arrays[name] for name in (*comparing.ARGUMENTS, "c0")}
    options = {"engine": engine, "precision": numbers.precision}
    # Twice what is returned and kept, in float64: more than any engine asks for.
    needed = 16 * (N * T * (D + 8 * H) + 8 * N * H + 3 * 4 * H * (D + H + 1))

    def other():
        comparing.run({name: array[::-1] for name, array in arrays.items()}, **options)

    with place.poisoned(needed) as poisoned:
        results = comparing.run(arrays, **options)
    shares = comparing.check(results, arrays, expected, numbers.rounding, T, xp)
    first = {name: result.copy() for name, result in results.items()}
    with place.poisoned(needed):
        again = comparing.run(arrays, other, **options)
    if names := comparing.changed(arrays, given, xp):
        raise WrongNumbers(f"wrote into its arguments {', '.join(names)}")
    if names := comparing.changed(again, first, xp):
        raise WrongNumbers(f"{', '.join(names)} differ from run to run")
    if names := comparing.changed(results, first, xp):
        raise WrongNumbers(f"{', '.join(names)} of a run were written to by a later one")
    with place.poisoned(needed):
        plain = comparing.run(inference, **options)
    # numpy_numba's inference need not round as its training does: only within the limits.
    if names := comparing.changed(plain, first, xp):
        comparing.check(plain, inference, expected, numbers.rounding, T, xp)
    worst = max(shares, key=shares.get)
    return {"share": shares[worst], "worst": worst, "poisoned": poisoned, "inference_has_same_bits": not names}
