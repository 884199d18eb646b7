"""Contenders: one small module each. Those in this folder are other people's; `benchmarks/ours.py` is lstm_xp.

A module has the names

    packages                            what it imports, for the record of versions
    Contender(problem, arrays, option)  `problems.Problem`, its NumPy arrays by name, and what follows ":" in the
                                        name that it was asked for by ("" if nothing)
    refuses(device, option) -> str      (optional) why it cannot run here, "" if it can; without it, it runs on the CPU,
                                        and has no options

and a Contender has

    inference(), forward(), training(), step()
                                        the work of `problems.WHATS`, to its end (a contender that works asynchronously
                                        waits for the result); those that it does not offer are left out
    named(what, result)                 what one of them returned, as NumPy arrays by name, in the shapes and the gate
                                        order of `lstm_forward`: h and, where offered, h_n, c_n; for training also
                                        dx, dh0, dc0, dWx, dWh, db
    details (optional)                  a dict for the record, such as the number of threads
    rounding (optional)                 a coarser dtype that it rounds like (TF32: float16), whose tolerance it then
                                        gets; the record says so, and no such contender counts as the best rival

Conversions belong into the constructor and into `named`: neither is timed. Every result is compared with a float64
reference before the first time is taken. A module is imported in its contender's own process and in no other; if that
fails, the contender is reported as absent. A constructor may raise `Refused` for a problem that it cannot do.

To add one: put its file here, and its file name is its name (one that ends in _cuda takes part by itself on `--device
cuda`, the others on the CPU); or name a file anywhere else.
"""

import pkgutil
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

# Who takes part more than once, and with which options.
OPTIONS = {"torch_cuda": ("", "graph", "tf32", "graph+tf32")}


class Refused(Exception):
    """A contender cannot run here; the message says why in one line."""


def names(device=None):
    """The rivals in this folder, with their options: all, or those of a device."""
    modules = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [name for name in modules if device in (None, "cuda" if name.endswith("_cuda") else "cpu")]
    return tuple(name + (option and f":{option}") for name in modules for option in OPTIONS.get(name, ("",)))


def load(contender):
    """The module of a contender, and its option: from lstm_xp, lstm_xp:ENGINE, a rival's name, or FILE.py."""
    name, _, option = contender.partition(":")
    if contender.endswith(".py"):
        spec = spec_from_file_location(Path(contender).stem, contender)
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module, ""
    return import_module("benchmarks.ours" if name == "lstm_xp" else f"{__name__}.{name}"), option


def refusal(module, device, option):
    """Why a contender cannot run here; "" if it can."""
    if hasattr(module, "refuses"):
        return module.refuses(device, option)
    if option:
        return f"it has no option {option!r}"
    return "" if device == "cpu" else "it runs on the CPU"
