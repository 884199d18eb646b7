"""Numbers so small that x86 processors take a hundred times as long for them: kernels have zeros in their place.

A gradient that is handed back through many steps, and shrinks at each, ends among them; and never at 0, for the
smallest of all, times 0.7, is rounded to itself.
"""

from platform import machine

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

X86 = machine().lower() in ("x86_64", "amd64")  # which all have the register
# Bit of the control register MXCSR: results that are denormal become zeros.
FLUSH = 1 << 15


def _access(builder, name, place):
    """Store MXCSR to a place in memory ("stmxcsr"), or load it from there ("ldmxcsr")."""
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.sse.{name}")
    builder.call(function, [builder.bitcast(place, byte)])


@intrinsic
def flush_denormals(typing):
    """From here on this thread computes zeros; what MXCSR was, for `restore`. Nothing on other processors."""

    def generate(context, builder, signature, arguments):
        place = cgutils.alloca_once(builder, ir.IntType(32))
        if not X86:
            return builder.load(place)
        _access(builder, "stmxcsr", place)
        before = builder.load(place)
        builder.store(builder.or_(before, before.type(FLUSH)), place)
        _access(builder, "ldmxcsr", place)
        return before

    return types.int32(), generate


@intrinsic
def restore(typing, before):
    """What MXCSR was before `flush_denormals`."""

    def generate(context, builder, signature, arguments):
        if X86:
            place = cgutils.alloca_once(builder, ir.IntType(32))
            builder.store(arguments[0], place)
            _access(builder, "ldmxcsr", place)
        return context.get_dummy_value()

    return types.void(types.int32), generate
