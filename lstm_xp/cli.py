"""The command line: lstm-xp train | sample | convert | inspect | trace | check | tune | info."""

import argparse
import contextlib
import importlib
import os
import sys

from . import __version__
from .training.errors import UserError

# Each command is a module of that name in `commands`, with add_arguments(parser) and run(args) -> exit status. It is
# imported only when it is the one to run, so that every command starts quickly.
COMMANDS = {
    "train": "train a byte-level language model on a text",
    "sample": "write text with a trained model",
    "convert": "convert weights from one file format to another",
    "inspect": "show the LSTMs in a file of weights",
    "trace": "draw the gates of a trained network over a text or a signal",
    "check": "check every array library, device and engine of this machine",
    "tune": "find the quickest engines for CuPy on this GPU",
    "info": "show versions, devices and engines",
}


class Parser(argparse.ArgumentParser):
    """Errors take one line, and say where to look."""

    def error(self, message):
        """Print the message and exit with status 2."""
        _tell(f"{self.prog}: {message}; see {self.prog} --help")
        self.exit(2)


def main(argv=None):
    """Run a command.

    Parameters
    ----------
    argv : list of str, or None
        Arguments, those of the process for None.

    Returns
    -------
    int
        Exit status: 0; 1 where a check failed; 2 where something must be put right by the user; 128 + the signal's
        number where a signal stopped it.
    """
    _open_closed_streams()
    argv = sys.argv[1:] if argv is None else argv
    parser = build_parser(next((word for word in argv if not word.startswith("-")), None))
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        # Not parse_args, which would point to the help of all commands.
        prog = f"{parser.prog} {args.command}"
        _tell(f"{prog}: unrecognized arguments: {' '.join(unknown)}; see {prog} --help")
        parser.exit(2)
    try:
        status = importlib.import_module(f".commands.{args.command}", __package__).run(args)
        sys.stdout.flush()
        return status
    except UserError as error:
        problem = str(error)
    except MemoryError:
        problem = "the memory of this machine does not suffice: make the model or the batch smaller"
    except BrokenPipeError:
        # Whoever read the output has gone. The interpreter's own flush at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        problem = f"{error.filename or 'input or output'}: {error.strerror or error}"
    except KeyboardInterrupt:
        _tell(f"\nlstm-xp {args.command}: interrupted")
        return 130
    _tell(f"lstm-xp {args.command}: {problem}")
    return 2


def _tell(problem):
    """Print on standard error. Where that cannot be written to, the exit status has to say it alone."""
    with contextlib.suppress(OSError):
        print(problem, file=sys.stderr, flush=True)


def _open_closed_streams():
    """Streams that were closed before the program began (2>&-) are None: what is written there shall go nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8", errors="replace"))


def build_parser(command):
    """The parser of all commands, in which one has its arguments."""
    parser = Parser(prog="lstm-xp", description="An LSTM for people who work in plain arrays.")
    parser.add_argument("--version", action="version", version=f"lstm-xp {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    for name, about in COMMANDS.items():
        if name == command:
            module = importlib.import_module(f".commands.{name}", __package__)
            subparser = commands.add_parser(
                name, help=about, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
            )
            module.add_arguments(subparser)
        else:
            commands.add_parser(name, help=about)
    return parser
