"""How the command line is called here."""

import os
import shlex
import shutil
import sys


def command_line(*words):
    """A command to copy and paste: lstm-xp where the shell finds it, else by way of this interpreter."""
    if shutil.which("lstm-xp"):
        program = ["lstm-xp"]
    else:
        python = os.path.relpath(sys.executable) if sys.executable.startswith(os.getcwd() + os.sep) else sys.executable
        program = [python, "-m", "lstm_xp"]
    return shlex.join([*program, *map(str, words)])
