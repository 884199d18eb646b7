"""What a person sees meanwhile: a bar on a terminal, plain lines elsewhere. Both on standard error."""

import sys
import time
from typing import NamedTuple


class Status(NamedTuple):
    """Where a run stands. `length` is its whole length in words, `valid_bits` None before the first validation."""

    step: int
    done: float
    train_bits: float
    valid_bits: float | None
    bytes_per_second: float
    seconds_left: float

    def __str__(self):
        valid = "" if self.valid_bits is None else f"  (validation {self.valid_bits:.3f})"
        return (
            f"{100 * self.done:3.0f}%  step {self.step}  {self.train_bits:.3f} bits/byte{valid}  "
            f"{self.bytes_per_second / 1000:.1f} kB/s  {clock(self.seconds_left)} left"
        )


def clock(seconds):
    """Seconds as h:mm:ss or m:ss."""
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Lines:
    """A line at the first step, and then every so many seconds."""

    def __init__(self, every=5.0):
        self._every, self._next = every, 0.0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def wants(self):
        """Whether it is time to show something: computing a status makes a device wait."""
        return time.monotonic() >= self._next

    def show(self, status):
        """Print the status as a line."""
        self._next = time.monotonic() + self._every
        say(str(status))


class Bar:
    """A progress bar, redrawn ten times a second."""

    def __init__(self):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._progress = Progress(
            BarColumn(bar_width=None),
            TextColumn("{task.description}", markup=False),
            console=Console(stderr=True),
            expand=True,
        )
        self._task = self._progress.add_task("", total=1.0)
        self._next = 0.0

    def __enter__(self):
        self._progress.start()
        return self

    def __exit__(self, *_):
        self._progress.stop()

    def wants(self):
        """Whether it is time to redraw."""
        return time.monotonic() >= self._next

    def show(self, status):
        """Redraw the bar."""
        self._next = time.monotonic() + 0.1
        self._progress.update(self._task, completed=min(1.0, status.done), description=str(status))


def progress():
    """A `Bar` where standard error is a terminal, else `Lines`."""
    return Bar() if sys.stderr.isatty() else Lines()


def say(text):
    """A line for the person, on standard error, at once."""
    print(text, file=sys.stderr, flush=True)
