"""What the values of flags must be."""

import argparse
import math


def count(word):
    """A whole number of at least 1."""
    return _whole(word, 1)


def seed(word):
    """A whole number of at least 0."""
    return _whole(word, 0)


def indices(word):
    """Whole numbers of at least 0, with commas between them; each once, in their order."""
    return list(dict.fromkeys(seed(part) for part in word.split(",")))


def positive(word):
    """A finite number above 0."""
    value = _number(word)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"must be a number above 0; got {word}")
    return value


def not_negative(word):
    """A finite number of at least 0."""
    value = _number(word)
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"must be a number of at least 0; got {word}")
    return value


def _whole(word, least):
    try:
        value = int(word)
    except ValueError:
        value = None
    if value is None or value < least:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}; got {word}")
    return value


def _number(word):
    try:
        return float(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number; got {word}") from None
