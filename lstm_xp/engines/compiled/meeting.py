"""How threads in compiled code meet: counters that all of them see.

A meeting is an array of three counters, each in a line of memory of its own: how often threads have arrived (ARRIVED),
whether there is work (BELL), how many are done with it (DONE).

To wait, a thread looks again and again for a while, for most waits are shorter than it takes to wake one up; then it
sleeps between looks. After each look, which takes some 240 ns if nobody else wants the processor, it gives way: where
another program, or a BLAS that spins for more work, has the other processors, two threads that wait for each other
share one, and a step would otherwise take as long as a thread is patient.
"""

import os

import numpy as np
from llvmlite import ir
from numba import int64, njit, types, void
from numba.core import cgutils
from numba.extending import intrinsic

from . import compiled

ARRIVED, BELL, DONE = 0, 16, 32

# Looks before a waiting thread sleeps, some 200 us, and for how long, in microseconds; looks for more work, some 60 us.
PATIENCE, NAP, LISTENS = 800, 20, 250
CALLED_OFF = 2**62


def new_meeting():
    return np.zeros(48, np.int64)


def call_off(meeting):
    """Let whoever waits for arrivals go on: the work has failed."""
    meeting[ARRIVED] = CALLED_OFF


@intrinsic
def add(typing, meeting, counter):
    """Add one to a counter, and return what it was; all threads see it, with everything that was written before."""

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.atomic_rmw("add", builder.gep(array.data, [arguments[1]]), ir.IntType(64)(1), "seq_cst")

    return types.int64(meeting, types.int64), generate


@intrinsic
def put(typing, meeting, counter, value):
    """Set a counter, for all threads to see, together with everything that this one wrote before."""

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.gep(array.data, [arguments[1]])
        builder.store_atomic(arguments[2], place, ordering="seq_cst", align=8)
        return context.get_dummy_value()

    return types.void(meeting, types.int64, types.int64), generate


@intrinsic
def look(typing, meeting, counter):
    """A counter, as the last thread left it, together with everything that was written before."""

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.load_atomic(builder.gep(array.data, [arguments[1]]), ordering="seq_cst", align=8)

    return types.int64(meeting, types.int64), generate


def _of_system(name, doc, *arguments):
    """A function of the C library, or of Windows, for numba: with these whole numbers, and of no result."""

    @intrinsic
    def call(typing):
        def generate(context, builder, signature, _):
            kind = ir.FunctionType(ir.IntType(32), [ir.IntType(32)] * len(arguments))
            function = cgutils.get_or_insert_function(builder.module, kind, name)
            builder.call(function, [ir.IntType(32)(value) for value in arguments])
            return context.get_dummy_value()

        return types.void(), generate

    call.__doc__ = doc
    return call


WINDOWS = os.name == "nt"  # where no sleep is so short
give_way = _of_system("SwitchToThread" if WINDOWS else "sched_yield", "Give the processor to who else wants it.")
sleep = give_way if WINDOWS else _of_system("usleep", "Sleep for a nap.", NAP)


@njit(nogil=True)
def until(meeting, counter, count):
    """Wait until a counter has come so far."""
    looks = 0
    while look(meeting, counter) < count:
        looks += 1
        give_way()
        if looks > PATIENCE:
            sleep()


@njit(nogil=True)
def wait(meeting, arrivals):
    """Meet the other threads: go on when so many arrivals have been counted."""
    add(meeting, ARRIVED)
    until(meeting, ARRIVED, arrivals)


@njit(nogil=True)
def begin(meeting, part):
    """The first thing in work: from here on the caller does without Python, so that workers can have it."""
    if part == 0:
        add(meeting, BELL)


@compiled(void(int64[::1]))
def ring(meeting):
    """There is work."""
    add(meeting, BELL)


@compiled(void(int64[::1]))
def listen(meeting):
    """Done; then stay awake for a while, in case there is more."""
    heard = look(meeting, BELL)
    add(meeting, DONE)
    looks = 0
    while look(meeting, BELL) == heard and looks < LISTENS:
        looks += 1
        give_way()


@compiled(void(int64[::1], int64))
def see_off(meeting, workers):
    """Wait until so many are done."""
    until(meeting, DONE, workers)
