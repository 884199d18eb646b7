"""What is compiled for a dtype: each kernel when it is first asked for."""

import os
import sys
from contextlib import suppress
from threading import Lock, Timer
from types import SimpleNamespace

from . import kernels

NOTICE = "lstm_xp: preparing compiled code for {dtype}, which takes a while; it is kept on disk where that can be done"


class Code(SimpleNamespace):
    """The kernels for a dtype, by their names, and what belongs to them: `dtype`, and whatever else it is given."""

    def __init__(self, **given):
        super().__init__(**given, noticed=False, compiling=Lock())
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def __getattr__(self, name):
        if name == "dtype" or name.startswith("__"):  # of an object that is being copied
            raise AttributeError(name)
        functions = {function.__name__: function for function in kernels.signatures(self.dtype)}
        if name not in functions:
            raise AttributeError(f"no kernel is called {name!r}")
        with self.compiling:
            if name not in self.__dict__:  # or else another thread has compiled it meanwhile
                self.__dict__[name] = self._compiled(functions[name])
        return self.__dict__[name]

    def _compiled(self, function):
        notice = Timer(1.0, self._notice)
        notice.daemon = True
        with suppress(RuntimeError):  # the system gives no more threads
            notice.start()
        try:
            return kernels.compile(function, self.dtype)
        finally:
            notice.cancel()

    def _forget(self):
        """In a forked child: the thread that was compiling is not here."""
        self.compiling = Lock()

    def _notice(self):
        """Once, for whatever is compiled."""
        if not self.noticed:
            self.noticed = True
            print(NOTICE.format(dtype=self.dtype.name), file=sys.stderr, flush=True)
