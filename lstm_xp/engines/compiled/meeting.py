"""How threads in compiled code meet: a counter that all of them see."""

import os
import platform

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

# Looks at the counter before a waiting thread lets others run.
PATIENCE = 4000


@intrinsic
def arrive(typing, counter):
    """Add one to counter[0], for all threads to see, together with everything that this one wrote before."""

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        builder.atomic_rmw("add", array.data, ir.IntType(64)(1), "seq_cst")
        return context.get_dummy_value()

    return types.void(counter), generate


@intrinsic
def arrived(typing, counter):
    """counter[0], as the last thread left it, together with everything that was written before."""

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.load_atomic(array.data, ordering="seq_cst", align=8)

    return types.int64(counter), generate


def _instruction(name, result, doc):
    @intrinsic
    def call(typing):
        def generate(context, builder, signature, arguments):
            if name:
                kind = ir.FunctionType(result, [])
                builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [])
            return context.get_dummy_value()

        return types.void(), generate

    call.__doc__ = doc
    return call


_x86 = platform.machine().lower() in ("x86_64", "amd64")
pause = _instruction(_x86 and "llvm.x86.sse2.pause", ir.VoidType(), "Tell the processor that this thread only waits.")
give_way = _instruction(
    "SwitchToThread" if os.name == "nt" else "sched_yield", ir.IntType(32), "Let another thread have this processor."
)


@njit(nogil=True)
def wait(counter, arrivals):
    """Meet the other threads: go on when so many arrivals have been counted."""
    arrive(counter)
    looks = 0
    while arrived(counter) < arrivals:
        looks += 1
        pause()
        if looks > PATIENCE:
            give_way()
