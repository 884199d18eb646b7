"""``python -m lstm_xp`` is ``lstm-xp``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
