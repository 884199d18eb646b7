"""The packages of the extra `weights`, each imported on first use."""

from importlib import import_module


def package(name):
    """A package, or a message that says how to install it."""
    try:
        return import_module(name)
    except ImportError:
        root = name.partition(".")[0]
        raise ImportError(f"this needs {root}: pip install {root}", name=root) from None
