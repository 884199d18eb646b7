"""The packages that only the command line needs."""

from importlib.util import find_spec

from lstm_xp.training.errors import UserError


def require(*packages):
    """That packages of the extra `cli` are there, before any work is done."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise UserError(f"this command needs {', '.join(missing)}: pip install {' '.join(missing)}")
