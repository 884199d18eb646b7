"""Vector registers for numba: a type, its arithmetic, loads and stores, and the register tile of a matrix product.

numba compiles loops well, but cannot be relied on to vectorise them, nor to keep a block of accumulators in registers.
Here both are said outright, in LLVM's terms: a `Vector` is one register, the operators work on all its lanes, and a
tile of a product takes one multiplication per register and step of k, which is all that a processor can do.
"""

import operator
from math import factorial

from llvmlite import binding, ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model


def _has(feature):
    """Whether numba compiles for a processor with this feature: the one that was set for it, or the one it runs on."""
    if config.CPU_FEATURES is not None:
        return f"+{feature}" in config.CPU_FEATURES.split(",")
    return binding.get_host_cpu_features().get(feature, False)


# Bytes of a register.
BYTES = 64 if _has("avx512f") else 32 if _has("avx2") else 16
# Tiles of a product, as rows and vectors of columns: what leaves registers for the operands, of 32 or 16. One has as
# many sums as possible; one is for the four gates of some units; one is for few rows, whose sums shall not wait for
# each other.
TILES = ((6, 2), (3, 4), (1, 12)) if _has("sse2") and not _has("avx512f") else ((8, 3), (6, 4), (2, 12))

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
        super().__init__(manager, kind, _vector(manager[kind.dtype].get_value_type()))


def _vector(number):
    return ir.VectorType(number, BYTES // (4 if isinstance(number, ir.FloatType) else 8))


def _splat(builder, number, kind):
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


def _lanes_below(builder, count, kind):
    """Which lanes have a number less than count: a vector of bits. Compared as 32 bits, for which one register does."""
    lanes = ir.VectorType(ir.IntType(32), kind.count)
    count = builder.trunc(count, lanes.element)
    return builder.icmp_signed("<", ir.Constant(lanes, list(range(kind.count))), _splat(builder, count, lanes))


def _masked(builder, action, kind, *arguments):
    """LLVM's masked load or store of one vector, with the alignment of a number."""
    pointer = kind.as_pointer()
    mask = ir.VectorType(ir.IntType(1), kind.count)
    kinds = [kind, pointer, ir.IntType(32), mask] if action == "store" else [pointer, ir.IntType(32), mask, kind]
    result = ir.VoidType() if action == "store" else kind
    name = f"llvm.masked.{action}.v{kind.count}{'f32' if kind.element == ir.FloatType() else 'f64'}.p0"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, kinds), name)
    return builder.call(function, arguments)


def _size(kind):
    return 4 if kind.element == ir.FloatType() else 8


@intrinsic
def load(typing, pointer, offset, count):
    """The elements from this offset on, as many as fit or as `count` says; then zeros."""
    result = Vector(pointer.dtype)

    def generate(context, builder, signature, arguments):
        kind = context.get_value_type(result)
        place = builder.gep(arguments[0], [arguments[1]])
        place = builder.bitcast(place, kind.as_pointer())
        mask = _lanes_below(builder, arguments[2], kind)
        return _masked(builder, "load", kind, place, ir.IntType(32)(_size(kind)), mask, ir.Constant(kind, None))

    return result(pointer, offset, count), generate


@intrinsic
def store(typing, pointer, offset, vector, count):
    """Write the first `count` lanes, from this offset on."""

    def generate(context, builder, signature, arguments):
        kind = context.get_value_type(signature.args[2])
        place = builder.gep(arguments[0], [arguments[1]])
        place = builder.bitcast(place, kind.as_pointer())
        mask = _lanes_below(builder, arguments[3], kind)
        _masked(builder, "store", kind, arguments[2], place, ir.IntType(32)(_size(kind)), mask)
        return context.get_dummy_value()

    return types.void(pointer, offset, vector, count), generate


def _prefetch(builder, pointer, write, level):
    """Ask for memory that is wanted later: to read or to write, in the cache of level 4 - `level`."""
    byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
    function = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
    function = cgutils.get_or_insert_function(builder.module, function, "llvm.prefetch.p0")
    builder.call(function, [builder.bitcast(pointer, byte), word(write), word(level), word(1)])


def _operation(name):
    """A function of two vectors, or of a vector and a number: LLVM's instruction of that name."""

    @intrinsic
    def apply(typing, left, right):
        result = left if isinstance(left, Vector) else right

        def generate(context, builder, signature, arguments):
            kind = context.get_value_type(result)
            pairs = zip(signature.args, arguments, strict=True)
            wide = [value if isinstance(type, Vector) else _splat(builder, value, kind) for type, value in pairs]
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
def clamp(typing, x, bound):
    """Each within -bound..bound; a NaN stays one."""

    def together(builder, kind, x, bound):
        high, low = _splat(builder, bound, kind), _splat(builder, builder.fneg(bound), kind)
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
        if BYTES < 64 or _size(kind) == 8:
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


@intrinsic
def expm1(typing, x):
    """exp(x) - 1 of each, for -80 < x < 80, without a branch; a NaN stays one.

    With x = n ln 2 + r and |r| <= ln(2) / 2, it is 2**n (exp(r) - 1) + (2**n - 1); exp(r) - 1 by Taylor's series.
    """

    def together(builder, kind, x):
        bits, mantissa, exponent_of_1, ln2_high, ln2_low, terms = EXP[_size(kind)]
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
        return _multiply_add(builder, power, series, [builder.fsub(v, constant(1.0)) for v in power])

    return _together(together)(typing, x)


def _mixed(builder, first, second, order):
    """A vector of such lanes of two, those of the second counted behind those of the first."""
    return builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order))


@intrinsic
def transpose(typing, A, a, a_row, out, y, y_row):
    """A square of as many rows as a vector has lanes, from A into out, transposed; offsets and steps as in `tile`."""

    def generate(context, builder, signature, arguments):
        number = context.get_value_type(signature.args[0].dtype)
        kind = _vector(number)
        lanes, align = kind.count, _size(kind)

        def row(k, index):
            offset = builder.add(arguments[k + 1], builder.mul(INT(index), arguments[k + 2]))
            pointer = builder.gep(arguments[k], [offset])
            return builder.bitcast(pointer, kind.as_pointer())

        rows = [builder.load(row(0, index), align=align) for index in range(lanes)]
        size = 1
        while size < lanes:  # squares of this size change places, in pairs beside the diagonal
            upper = [lane + lanes - size if lane & size else lane for lane in range(lanes)]
            lower = [lane + lanes if lane & size else lane + size for lane in range(lanes)]
            for index in range(lanes):
                if not index & size:
                    pair = rows[index], rows[index + size]
                    rows[index], rows[index + size] = (_mixed(builder, *pair, order) for order in (upper, lower))
            size *= 2
        for index, vector in enumerate(rows):
            builder.store(vector, row(3, index), align=align)
        return context.get_dummy_value()

    return types.void(A, a, a_row, out, y, y_row), generate


@intrinsic
def dots(typing, A, a, B, b, b_row, K, out, y, rows):
    """out = the dot products of A, of K numbers, with so many rows of B, at most as many as a vector has lanes.

    Pointers are followed by the offset of the first element; `b_row` is from one row of B to the next, of which whole
    vectors are read. Half of the sums are formed at a time, each in a register; in the end all registers are added up
    together: pairs of them become one, again and again.
    """

    def generate(context, builder, signature, arguments):
        kind = context.get_value_type(Vector(signature.args[0].dtype))
        lanes, align, zero = kind.count, ir.IntType(32)(_size(kind)), ir.Constant(kind, None)
        _, _, _, _, b_row, K, _, _, rows = arguments
        left, right, after = (builder.gep(arguments[k], [arguments[k + 1]]) for k in (0, 2, 6))
        last = builder.sub(rows, INT(1))

        def row(r):  # behind the last row, once more the last
            beyond = builder.icmp_signed(">", INT(r), last)
            return builder.gep(right, [builder.mul(builder.select(beyond, last, INT(r)), b_row)])

        def vector_at(pointer, k):
            return builder.bitcast(builder.gep(pointer, [k]), kind.as_pointer())

        vectors = []
        for half in range(2):
            pointers = [row(r) for r in range(half * lanes // 2, (half + 1) * lanes // 2)]
            before, loop, done = builder.block, *map(builder.append_basic_block, ("dots_loop", "dots_done"))
            builder.branch(loop)
            builder.position_at_end(loop)
            k, sums = builder.phi(INT), [builder.phi(kind) for _ in pointers]
            mask = _lanes_below(builder, builder.sub(K, k), kind)
            factor = _masked(builder, "load", kind, vector_at(left, k), align, mask, zero)
            values = [builder.load(vector_at(pointer, k), align=_size(kind)) for pointer in pointers]
            terms = [builder.fmul(factor, value, flags=FAST) for value in values]
            new = [builder.fadd(*pair, flags=FAST) for pair in zip(sums, terms, strict=True)]
            following = builder.add(k, INT(lanes))
            for phi, initial, value in [(k, INT(0), following), *zip(sums, [zero] * len(sums), new, strict=True)]:
                phi.add_incoming(initial, before)
                phi.add_incoming(value, loop)
            builder.cbranch(builder.icmp_signed("<", following, K), loop, done)
            builder.position_at_end(done)
            vectors += new
        for size in (1 << bit for bit in range(lanes.bit_length() - 1)):
            # A lane belongs to the first of a pair or to the second, by its bit of this size.
            here = [lane + lanes - size if lane & size else lane for lane in range(lanes)]
            there = [lane + lanes if lane & size else lane + size for lane in range(lanes)]
            pairs = zip(vectors[::2], vectors[1::2], strict=True)
            vectors = [builder.fadd(_mixed(builder, *pair, here), _mixed(builder, *pair, there)) for pair in pairs]
        mask = _lanes_below(builder, rows, kind)
        _masked(builder, "store", kind, vectors[0], builder.bitcast(after, kind.as_pointer()), align, mask)
        return context.get_dummy_value()

    return types.void(A, a, B, b, b_row, K, out, y, rows), generate


def tile(most_rows, most_vectors, least_vectors=1):
    """The register tile of at most so many rows and vectors of columns, as a function."""

    @intrinsic
    def tile(typing, A, a, a_row, a_k, B, b, b_k, K, ahead, ahead_k, base, z, z_row, out, y, y_row, rows, columns):
        """out = base + A @ B for a tile.

        Pointers are followed by the offset of the tile's first element, and by what takes one row, or one step of k,
        further: all in elements. Columns are contiguous; B has whole vectors of them. The sum over k starts from zero,
        runs in order, and is then added to `base`: a result has the same bits in whichever tile it is computed. On the
        way, the elements of B from `ahead` on, `ahead_k` for each k, are asked for: what the next tiles want is then at
        hand.
        """

        def generate(context, builder, signature, arguments):
            number = context.get_value_type(signature.args[0].dtype)
            kind = _vector(number)
            lanes, align = kind.count, _size(kind)
            zero = ir.Constant(kind, None)
            _, _, a_row, a_k, _, _, b_k, K, ahead, ahead_k, _, _, z_row, _, _, y_row, rows, columns = arguments

            def place(pointer, *steps):
                """The pointer, so many times so many elements further on."""
                for count, step in steps:
                    count, step = (INT(v) if isinstance(v, int) else v for v in (count, step))
                    pointer = builder.gep(pointer, [builder.mul(count, step)])
                return pointer

            def start(k):
                return place(arguments[k], (arguments[k + 1], 1))

            def vector_at(pointer):
                return builder.bitcast(pointer, kind.as_pointer())

            left, right, before, after = start(0), start(4), start(10), start(13)
            wanted = place(arguments[4], (ahead, 1))
            vectors = builder.sdiv(builder.add(columns, INT(lanes - 1)), INT(lanes))
            full = builder.icmp_signed("==", builder.mul(vectors, INT(lanes)), columns)
            mask = _lanes_below(
                builder, builder.sub(columns, builder.mul(builder.sub(vectors, INT(1)), INT(lanes))), kind
            )
            end = builder.append_basic_block("end")
            switch = builder.switch(builder.add(builder.mul(rows, INT(most_vectors + 1)), vectors), end)
            for R in range(1, most_rows + 1):
                for C in range(least_vectors, most_vectors + 1):
                    cells = [(r, v) for r in range(R) for v in range(C)]
                    entry, loop, whole, partial = (
                        builder.append_basic_block(f"{name}_{R}_{C}") for name in ("entry", "loop", "whole", "partial")
                    )
                    switch.add_case(INT(R * (most_vectors + 1) + C), entry)
                    builder.position_at_end(entry)
                    for r, v in cells:
                        _prefetch(builder, place(before, (r, z_row), (v, lanes)), 1, 3)
                    builder.branch(loop)

                    builder.position_at_end(loop)
                    k = builder.phi(INT)
                    sums = {cell: builder.phi(kind) for cell in cells}
                    row_of_B = [
                        builder.load(vector_at(place(right, (k, b_k), (v, lanes))), align=align) for v in range(C)
                    ]
                    new = {}
                    _prefetch(builder, place(wanted, (k, ahead_k)), 0, 2)
                    for r in range(R):
                        scalar = _splat(builder, builder.load(place(left, (k, a_k), (r, a_row))), kind)
                        for v in range(C):
                            term = builder.fmul(scalar, row_of_B[v], flags=FAST)
                            new[r, v] = builder.fadd(sums[r, v], term, flags=FAST)
                    following = builder.add(k, INT(1))
                    for phi, initial, value in [
                        (k, INT(0), following),
                        *((sums[cell], zero, new[cell]) for cell in cells),
                    ]:
                        phi.add_incoming(initial, entry)
                        phi.add_incoming(value, loop)
                    done = builder.append_basic_block(f"done_{R}_{C}")
                    builder.cbranch(builder.icmp_signed("<", following, K), loop, done)
                    builder.position_at_end(done)
                    builder.cbranch(full, whole, partial)

                    for block in (whole, partial):
                        builder.position_at_end(block)
                        for r, v in cells:
                            source = vector_at(place(before, (r, z_row), (v, lanes)))
                            target = vector_at(place(after, (r, y_row), (v, lanes)))
                            if block is partial and v == C - 1:
                                value = _masked(builder, "load", kind, source, ir.IntType(32)(align), mask, zero)
                                value = builder.fadd(value, new[r, v])
                                _masked(builder, "store", kind, value, target, ir.IntType(32)(align), mask)
                            else:
                                value = builder.fadd(builder.load(source, align=align), new[r, v])
                                builder.store(value, target, align=align)
                        builder.branch(end)
            builder.position_at_end(end)
            return context.get_dummy_value()

        signature = types.void(
            A, a, a_row, a_k, B, b, b_k, K, ahead, ahead_k, base, z, z_row, out, y, y_row, rows, columns
        )
        return signature, generate

    return tile
