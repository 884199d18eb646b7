"""Vector registers for numba: a type, its arithmetic, loads and stores.

numba compiles loops well, but cannot be relied on to vectorise them, nor to keep a block of accumulators in registers.
Here and in `tiles.py` both are said outright, in LLVM's terms: a `Vector` is one register, and the operators work on
all its lanes.
"""

import operator
from math import factorial

from llvmlite import binding, ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model


def has(feature):
    """Whether numba compiles for a processor with this feature: the one that was set for it, or the one it runs on."""
    if config.CPU_FEATURES is not None:
        return f"+{feature}" in config.CPU_FEATURES.split(",")
    return binding.get_host_cpu_features().get(feature, False)


# Bytes of a register.
BYTES = 64 if has("avx512f") else 32 if has("avx2") else 16
INT = ir.IntType(64)
FAST = ("contract",)  # a product and a sum may become one operation, nothing else

LOG2_E = 1.4426950408889634074
# Bytes of a number -> its bits, those of its mantissa, those of 1.0; ln 2 in two pieces, the first so short that its
# multiples are exact; the terms of the series that it takes to be exact to rounding.
EXP = {
    4: (32, 23, 0x3F800000, 0.693359375, -2.12194440054690583e-4, 7),
    8: (64, 52, 0x3FF0000000000000, 0.693147180369123816490, 1.90821492927058770002e-10, 14),
}


class Vector(types.Type):
    """A register full of numbers of one dtype."""

    def __init__(self, dtype):
        self.dtype = dtype
        super().__init__(f"Vector({dtype})")


@register_model(Vector)
class _Model(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, vector_of(manager[kind.dtype].get_value_type()))


def vector_of(number):
    return ir.VectorType(number, BYTES // (4 if isinstance(number, ir.FloatType) else 8))


def splat(builder, number, kind):
    undefined = ir.Constant(kind, ir.Undefined)
    vector = builder.insert_element(undefined, number, ir.IntType(32)(0))
    return builder.shuffle_vector(vector, undefined, ir.Constant(ir.VectorType(ir.IntType(32), kind.count), None))


@intrinsic
def data(typing, array):
    """A pointer to the first element. Unlike an array, it is not counted, which would be done at each use, by all
    threads at the same place: arrays themselves have no part in inner loops, and are `held` until after them.
    """

    def generate(context, builder, signature, arguments):
        return context.make_array(signature.args[0])(context, builder, arguments[0]).data

    return types.CPointer(array.dtype)(array), generate


@intrinsic
def address(typing, pointer):
    """A pointer as a number, for another thread."""
    return types.int64(pointer), lambda context, builder, _, arguments: builder.ptrtoint(arguments[0], INT)


@intrinsic
def at(typing, address, like):
    """The pointer that was made a number, to what another pointer points to."""
    return like(types.int64, like), lambda context, builder, _, arguments: builder.inttoptr(
        arguments[0], arguments[1].type
    )


@intrinsic
def lanes(typing, pointer):
    """How many numbers a register has."""
    count = BYTES // (pointer.dtype.bitwidth // 8)
    return types.intp(pointer), lambda context, *_: INT(count)


@intrinsic
def short_of_line(typing, pointer):
    """How many numbers come before the first that begins a register's worth of memory.

    Registers that are read from there on do not lie across two lines of the cache, which would take twice as long.
    """

    def generate(context, builder, signature, arguments):
        before = builder.and_(builder.neg(builder.ptrtoint(arguments[0], INT)), INT(BYTES - 1))
        return builder.udiv(before, INT(pointer.dtype.bitwidth // 8))

    return types.intp(pointer), generate


@intrinsic
def hold(typing, array):
    """Nothing, but until here the array is there."""
    return types.void(array), lambda context, *_: context.get_dummy_value()


def lanes_below(builder, count, kind):
    """Which lanes have a number less than count: a vector of bits. Compared as 32 bits, for which one register does."""
    lanes = ir.VectorType(ir.IntType(32), kind.count)
    count = builder.trunc(count, lanes.element)
    return builder.icmp_signed("<", ir.Constant(lanes, list(range(kind.count))), splat(builder, count, lanes))


def masked(builder, action, kind, *arguments):
    """LLVM's masked load or store of one vector, with the alignment of a number."""
    pointer = kind.as_pointer()
    mask = ir.VectorType(ir.IntType(1), kind.count)
    kinds = [kind, pointer, ir.IntType(32), mask] if action == "store" else [pointer, ir.IntType(32), mask, kind]
    result = ir.VoidType() if action == "store" else kind
    name = f"llvm.masked.{action}.v{kind.count}{'f32' if kind.element == ir.FloatType() else 'f64'}.p0"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, kinds), name)
    return builder.call(function, arguments)


def size_of(kind):
    return 4 if kind.element == ir.FloatType() else 8


@intrinsic
def load(typing, pointer, offset, count):
    """The elements from this offset on, as many as fit or as `count` says; then zeros."""
    result = Vector(pointer.dtype)

    def generate(context, builder, signature, arguments):
        kind = context.get_value_type(result)
        place = builder.gep(arguments[0], [arguments[1]])
        place = builder.bitcast(place, kind.as_pointer())
        mask = lanes_below(builder, arguments[2], kind)
        return masked(builder, "load", kind, place, ir.IntType(32)(size_of(kind)), mask, ir.Constant(kind, None))

    return result(pointer, offset, count), generate


@intrinsic
def store(typing, pointer, offset, vector, count):
    """Write the first `count` lanes, from this offset on."""

    def generate(context, builder, signature, arguments):
        kind = context.get_value_type(signature.args[2])
        place = builder.gep(arguments[0], [arguments[1]])
        place = builder.bitcast(place, kind.as_pointer())
        mask = lanes_below(builder, arguments[3], kind)
        masked(builder, "store", kind, arguments[2], place, ir.IntType(32)(size_of(kind)), mask)
        return context.get_dummy_value()

    return types.void(pointer, offset, vector, count), generate


def _operation(name):
    """A function of two vectors, or of a vector and a number: LLVM's instruction of that name."""

    @intrinsic
    def apply(typing, left, right):
        result = left if isinstance(left, Vector) else right

        def generate(context, builder, signature, arguments):
            kind = context.get_value_type(result)
            pairs = zip(signature.args, arguments, strict=True)
            wide = [value if isinstance(type, Vector) else splat(builder, value, kind) for type, value in pairs]
            return getattr(builder, name)(*wide, flags=FAST)

        return result(left, right), generate

    return apply


def _offer(function, name):
    apply = _operation(name)

    @overload(function)
    def _(left, right):
        if isinstance(left, Vector) or isinstance(right, Vector):
            return lambda left, right: apply(left, right)


for _function, _name in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _offer(_function, _name)


def _together(function):
    """An intrinsic for tuples of vectors, from one that gets lists of them: (builder, kind, lists, numbers).

    Each operation is written for all vectors before the next, so that the processor, which looks some way ahead, finds
    work that is ready: within one vector each operation waits for the one before.
    """

    def apply(typing, first, *others):
        def generate(context, builder, signature, arguments):
            kind = context.get_value_type(first.dtype)
            lists = [
                [builder.extract_value(value, k) for k in range(first.count)] if type == first else value
                for type, value in zip(signature.args, arguments, strict=True)
            ]
            return cgutils.pack_array(builder, list(function(builder, kind, *lists)))

        return first(first, *others), generate

    return apply


def _multiply_add(builder, a, b, c):
    return [builder.fadd(builder.fmul(*ab, flags=FAST), z, flags=FAST) for *ab, z in zip(a, b, c, strict=True)]


@intrinsic
def all_lanes(typing, pointer, number):
    """A register with one number in all of its lanes, of the kind that a pointer points to."""
    result = Vector(pointer.dtype)

    def generate(context, builder, signature, arguments):
        return splat(builder, arguments[1], context.get_value_type(result))

    return result(pointer, pointer.dtype), generate


@intrinsic
def where_less(typing, x, y, less, otherwise):
    """`less` in the lanes in which x < y, else `otherwise`, as where either is a NaN."""

    def generate(context, builder, signature, arguments):
        x, y, less, otherwise = arguments
        return builder.select(builder.fcmp_ordered("<", x, y), less, otherwise)

    return x(x, x, x, x), generate


@intrinsic
def clamp(typing, x, bound):
    """Each within -bound..bound; a NaN stays one."""

    def together(builder, kind, x, bound):
        high, low = splat(builder, bound, kind), splat(builder, builder.fneg(bound), kind)
        x = [builder.select(builder.fcmp_ordered(">", v, high), high, v) for v in x]
        return [builder.select(builder.fcmp_ordered("<", v, low), low, v) for v in x]

    return _together(together)(typing, x, bound)


@intrinsic
def ratio(typing, x, y):
    """Each x / y for y from 1 to 1e30, to rounding; a NaN stays one, and where x is y it is exactly 1.

    A register of 64 bytes is divided by Newton's steps from an estimate of 1 / y, which double its 14 bits, and one
    that corrects the quotient by what it leaves: a division of so many numbers takes the processor longer.
    """

    def together(builder, kind, x, y):
        if BYTES < 64 or size_of(kind) == 8:
            return [builder.fdiv(*pair) for pair in zip(x, y, strict=True)]
        mask = ir.IntType(kind.count)
        estimate = ir.FunctionType(kind, [kind, kind, mask])
        estimate = cgutils.get_or_insert_function(builder.module, estimate, "llvm.x86.avx512.rcp14.ps.512")
        inverse = [builder.call(estimate, [v, ir.Constant(kind, None), mask(-1)]) for v in y]
        minus, one = [builder.fneg(v) for v in y], [ir.Constant(kind, [1.0] * kind.count)] * len(y)
        inverse = _multiply_add(builder, inverse, _multiply_add(builder, minus, inverse, one), inverse)
        quotient = [builder.fmul(*pair) for pair in zip(x, inverse, strict=True)]
        return _multiply_add(builder, inverse, _multiply_add(builder, minus, quotient, x), quotient)

    return _together(together)(typing, x, y)


def _exponential(less):
    """Of each x, exp(x), less 1 or less 0, for -80 < x < 80, without a branch; a NaN stays one.

    With x = n ln 2 + r and |r| <= ln(2) / 2, it is 2**n (exp(r) - 1) + 2**n, less that; exp(r) - 1 by Taylor's series.
    """

    def together(builder, kind, x):
        bits, mantissa, exponent_of_1, ln2_high, ln2_low, terms = EXP[size_of(kind)]
        integers = ir.VectorType(ir.IntType(bits), kind.count)

        def constant(value, kind=kind):
            return ir.Constant(kind, [value] * kind.count)

        def all(value):
            return [constant(value)] * len(x)

        # Added to 1.5 * 2**mantissa, a number is rounded to an integer, which its last bits then are.
        shift = constant(1.5 * 2.0**mantissa)
        shifted = _multiply_add(builder, x, all(LOG2_E), [shift] * len(x))
        n = [builder.fsub(v, shift) for v in shifted]
        r = _multiply_add(builder, n, all(-ln2_high), x)
        r = _multiply_add(builder, n, all(-ln2_low), r)
        series = all(1 / factorial(terms))
        for term in range(terms - 1, 0, -1):
            series = _multiply_add(builder, series, r, all(1 / factorial(term)))
        series = [builder.fmul(*pair) for pair in zip(series, r, strict=True)]
        power = [builder.shl(builder.bitcast(v, integers), constant(mantissa, integers)) for v in shifted]
        power = [builder.bitcast(builder.add(v, constant(exponent_of_1, integers)), kind) for v in power]
        rest = [builder.fsub(v, constant(1.0)) for v in power] if less else power
        return _multiply_add(builder, power, series, rest)

    return _together(together)


@intrinsic
def expm1(typing, x):
    """exp(x) - 1 of each, as `_exponential` says."""
    return _exponential(1)(typing, x)


@intrinsic
def exp(typing, x):
    """exp(x) of each, likewise: with all its digits where it is small, too."""
    return _exponential(0)(typing, x)
