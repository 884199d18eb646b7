"""Let CuPy arrays run the quickest engine on this GPU: prove and time every engine here, once, and keep what was found.

At some thirty sizes, in every kind of numbers, each engine's outputs and gradients are compared with a float64
reference on the same GPU, and its calls are timed. An engine with a wrong number anywhere is left out. What was found
is written to ~/.cache/lstm_xp/engines.json; from then on, lstm_forward chooses by it for each problem, by the nearest
size. `lstm-xp tune --forget` takes the file away. Devices that the package knows already need none of this. It takes a
few minutes, most of it for compiling kernels, which CuPy keeps.

exit status: 0 all engines were right, 1 something is wrong, 2 there is no GPU, or no file to write
"""

import json
import sys
from itertools import product
from statistics import median
from time import perf_counter
from typing import NamedTuple

from .. import __version__, checks, engines, libraries, testing
from ..engines.cuda import choice
from ..files import write_atomically
from ..sequence import lstm_backward, lstm_forward
from ..training.errors import UserError
from . import values
from .check import ARGUMENTS, Case, draw

SIZES = tuple(product((1, 16, 64, 256), (32, 64, 128, 256, 512, 768, 1024, 2048)))
STEPS, CALLS = 32, 5


class Numbers(NamedTuple):
    """A kind of numbers: dtype, `precision` of `lstm_forward`, and the dtype whose tolerance results have."""

    dtype: str
    precision: str
    rounding: str


# TF32 keeps as many digits of a factor as float16 does.
KINDS = (
    Numbers("float32", "ieee", "float32"),
    Numbers("float32", "tf32", "float16"),
    Numbers("bfloat16", "ieee", "bfloat16"),
    Numbers("float16", "ieee", "float16"),
    Numbers("float64", "ieee", "float64"),
)


def add_arguments(parser):
    """Declare the command's arguments."""
    parser.add_argument("--forget", action="store_true", help="take the file away, and choose without it")
    parser.add_argument("--seed", type=values.seed, default=0, help="of the random problems (default: %(default)s)")


def run(args):
    """Run the command; the exit status."""
    file = choice.own_file()
    if file is None:
        raise UserError("there is no home folder to keep a file in")
    if args.forget:
        print(f"{'removed' if file.exists() else 'there is none'}: {file}")
        file.unlink(missing_ok=True)
        choice.forget()
        return 0
    try:
        library = libraries.open_library("cupy")
    except libraries.Missing as reason:
        raise UserError(f"{reason}; engines are tuned for CuPy arrays on a GPU") from None
    names = [name for name in engines.candidates("cupy") if name not in engines.ANY_LIBRARY]
    # Before minutes are spent.
    file.parent.mkdir(parents=True, exist_ok=True)
    table = _table(file)
    found, wrong = measure(library, names, SIZES, args.seed, print)
    table["devices"] |= choice.entry(library.device.id, {"lstm_xp": __version__}, found)
    write_atomically(file, json.dumps(table, indent=1).encode())
    choice.forget()
    print(f"written: {file}")
    return 1 if wrong else 0


def _table(file):
    """What is in the file already."""
    try:
        return {"format": choice.FORMAT, "devices": dict(choice.read(file)["devices"])}
    except FileNotFoundError:
        return {"format": choice.FORMAT, "devices": {}}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} cannot be read ({error!r}); take it away with --forget") from None


def measure(library, names, sizes, seed, say):
    """What the table of `choice` has for a device, by the engines that are right; and why others are not."""
    points, wrong, kinds = [], {}, [kind for kind in KINDS if kind.dtype in library.dtypes()]
    say(f"{'numbers':10}{'precision':11}{'N':>5}{'H':>6}  microseconds a step, inference and training")
    for kind, (N, H) in product(kinds, sizes):
        times = {}
        try:
            problem = Problem(library, kind, Case(N, STEPS, H, H), seed)
            for name in names:
                if problem.refused(name) or name in wrong:
                    continue
                try:
                    times[name] = problem.times(name)
                except MemoryError:
                    raise
                except Exception as error:  # whatever an engine does, the others are still measured
                    wrong[name] = f"{type(error).__name__}: {error}".splitlines()[0]
                    print(f"FAILED: {name}, {kind.dtype}, N = {N}, H = {H}: {wrong[name]}", file=sys.stderr)
        except MemoryError:  # not of the engines' making
            say(f"{kind.dtype:10}{kind.precision:11}{N:5}{H:6}  not measured: too little memory")
            continue
        told = (f"{name} {a / STEPS * 1e6:.1f} {b / STEPS * 1e6:.1f}" for name, (a, b) in times.items())
        say(f"{kind.dtype:10}{kind.precision:11}{N:5}{H:6}  {', '.join(told)}")
        for training in (False, True):
            order = sorted(times, key=lambda name: times[name][training])
            points.append({"dtype": kind.dtype, "precision": kind.precision, "training": training, "N": N, "H": H,
                           "engines": order})  # fmt: skip
    for point in points:
        point["engines"] = [name for name in point["engines"] if name not in wrong]
    return points, wrong


class Problem:
    """Arrays of one size and kind of numbers, and what they give in float64."""

    def __init__(self, target, kind, case, seed):
        arguments, (dh, _, _) = draw(case, seed)
        self.target, self.kind, self.case = target, kind, case
        self.arrays = {name: target.asarray(value, kind.dtype) for name, value in (arguments | {"dh": dh}).items()}
        exact = {name: target.xp.astype(value, target.xp.float64) for name, value in self.arrays.items()}
        self.expected = _both(exact, engine="array_api")

    def refused(self, name):
        """Why an engine cannot run it; "" if it can."""
        array_library = checks.array_library(self.target.xp)
        device = getattr(self.arrays["x"], "device", None)
        problem = checks.Problem(array_library, self.kind.dtype, device, *self.case[:4], True, self.kind.precision)
        return engines.load(name, self.kind.precision).refuses(problem)

    def times(self, name):
        """Seconds of an inference, and of a forward and a backward pass; AssertionError where numbers are wrong."""
        options = {"engine": name, "precision": self.kind.precision}
        results = _both(self.arrays, **options)
        for part, value in results.items():
            most = testing.limit(self.kind.rounding, "gradient" if part.startswith("d") else "forward", STEPS)
            error = testing.relative_error(value, self.expected[part])
            if not error <= most:
                raise AssertionError(f"{part} is wrong: its error is {error / most:.3g} times the limit")
        return self._time(lambda: _forward(self.arrays, training=False, **options)), self._time(
            lambda: _both(self.arrays, **options)
        )

    def _time(self, call):
        taken = []
        for _ in range(CALLS):
            self._wait()
            start = perf_counter()
            call()
            self._wait()
            taken.append(perf_counter() - start)
        return median(taken)

    def _wait(self):
        if checks.array_library(self.target.xp) == "cupy":
            self.target.xp.cuda.Device().synchronize()


def _forward(arrays, **options):
    x, h0, c0, Wx, Wh, b = (arrays[name] for name in ARGUMENTS)
    return lstm_forward(x, h0, Wx, Wh, b, c0=c0, **options)


def _both(arrays, **options):
    h, cache = _forward(arrays, **options)
    gradients = lstm_backward(arrays["dh"], cache)
    return {"h": h, "c_n": cache.c_n} | {f"d{name}": getattr(gradients, f"d{name}") for name in ARGUMENTS}
