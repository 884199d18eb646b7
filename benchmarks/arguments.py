"""Arguments that several programs have."""

import argparse
from functools import partial
from pathlib import Path


def numbers(word, letters="N,T,D,H"):
    """A size, for each of the letters a number, as an argument of a program."""
    found = tuple(int(number) if number.isdecimal() else 0 for number in word.split(","))
    wanted = len(letters.split(","))
    if len(found) != wanted or min(found) < 1:
        raise argparse.ArgumentTypeError(f"must be {wanted} numbers {letters} of at least 1; got {word}")
    return found


def add_sizes(parser, default, letters="N,T,D,H"):
    """--sizes, of one's own."""
    shown = " ".join(",".join(map(str, size)) for size in default)
    parser.add_argument(
        "--sizes", type=partial(numbers, letters=letters), nargs="+", default=default, metavar=letters,
        help=f"default: {shown}",
    )  # fmt: skip


def add_run(parser, sizes, each, letters="N,T,D,H"):
    """What programs have that measure in processes of their own, several of `each` at each size; --one is a process."""
    add_sizes(parser, sizes, letters)
    parser.add_argument("--rounds", type=int, default=5, help=f"processes of each {each} at each size; default: 5")
    parser.add_argument("--seconds", type=float, default=0.5, help="that each measures; default: 0.5")
    parser.add_argument("--out", type=Path, help="write the results as JSON lines")
    parser.add_argument("--one", help=argparse.SUPPRESS)


def check_run(parser, options):
    """An error of the parser where --rounds, --seconds or --out make no sense."""
    if options.rounds < 1 or options.seconds < 0:
        parser.error("--rounds must be at least 1, --seconds at least 0")
    if options.out and not options.out.parent.is_dir():
        parser.error(f"--out {options.out}: there is no directory {options.out.parent}")
