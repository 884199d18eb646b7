"""Blocks of vectors for numba: the tile of a matrix product, dot products of many rows, transposition.

A tile of a product keeps its sums in registers, and takes one multiplication per register and step of k, which is all
that a processor can do. Offsets and steps of pointers are in elements.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .vectors import FAST, INT, Vector, has, lanes_below, masked, size_of, splat, vector_of

# Tiles of a product, as rows and vectors of columns: what leaves registers for the operands, of 32 or 16. One has as
# many sums as possible; one is for the four gates of some units; one is for few rows and the gates of twice as many
# units, whose sums shall not wait for each other.
TILES = ((6, 2), (3, 4), (1, 8)) if has("sse2") and not has("avx512f") else ((8, 3), (6, 4), (2, 8))


def _prefetch(builder, pointer, write, level):
    """Ask for memory that is wanted later: to read or to write, in the cache of level 4 - `level`."""
    byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
    function = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
    function = cgutils.get_or_insert_function(builder.module, function, "llvm.prefetch.p0")
    builder.call(function, [builder.bitcast(pointer, byte), word(write), word(level), word(1)])


def _mixed(builder, first, second, order):
    """A vector of such lanes of two, those of the second counted behind those of the first."""
    return builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order))


@intrinsic
def ask(typing, pointer, offset):
    """Ask for memory that is read soon: where what comes next is not just behind, no processor guesses it."""

    def generate(context, builder, signature, arguments):
        _prefetch(builder, builder.gep(arguments[0], [arguments[1]]), 0, 3)
        return context.get_dummy_value()

    return types.void(pointer, offset), generate


@intrinsic
def transpose(typing, A, a, a_row, out, y, y_row):
    """A square of as many rows as a vector has lanes, from A into out, transposed; offsets and steps as in `tile`."""

    def generate(context, builder, signature, arguments):
        number = context.get_value_type(signature.args[0].dtype)
        kind = vector_of(number)
        lanes, align = kind.count, size_of(kind)

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
        lanes, align, zero = kind.count, ir.IntType(32)(size_of(kind)), ir.Constant(kind, None)
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
            mask = lanes_below(builder, builder.sub(K, k), kind)
            factor = masked(builder, "load", kind, vector_at(left, k), align, mask, zero)
            values = [builder.load(vector_at(pointer, k), align=size_of(kind)) for pointer in pointers]
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
        mask = lanes_below(builder, rows, kind)
        masked(builder, "store", kind, vectors[0], builder.bitcast(after, kind.as_pointer()), align, mask)
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
            kind = vector_of(number)
            lanes, align = kind.count, size_of(kind)
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
            mask = lanes_below(
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
                        scalar = splat(builder, builder.load(place(left, (k, a_k), (r, a_row))), kind)
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
                                value = masked(builder, "load", kind, source, ir.IntType(32)(align), mask, zero)
                                value = builder.fadd(value, new[r, v])
                                masked(builder, "store", kind, value, target, ir.IntType(32)(align), mask)
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
