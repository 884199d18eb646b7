// All steps of the LSTM in one launch, Wh on the chip throughout. After grid_product.cuh.
//
// A *replica* is so many blocks that hold all of Wh between them. Each holds one *slice*: 16 * MT columns of a depth of
// H, in registers and in shared memory, lane by lane as `mma` wants it. Forward, that is all four gates of 4 * MT
// units; backward it is one gate of 16 * MT units, and the four blocks with the gates of the same units are a *team*,
// whose sums are added in order. In either case a block has the cells of 4 * MT units to itself.
//
// A *chain* is so many rows of the batch (8 * TILES): it never meets another one, and belongs to one replica. Where a
// replica has several, one is worked on while messages of the others are on their way.
//
// What all units of a step need of the step before (h forward, da backward) is a *message* in global memory: rows of
// the product, rounded for it, each unit in its place. What a team adds up is told like a message, too. All blocks have
// to be on the device at once. Should a message not come all the same, everybody leaves, and what was not computed is
// NaN.
//
// A step is one wait after another, so all that can be is done while waiting: what a cell needs from memory is on its
// way before the message is looked for, and what it has computed is stored when others have been told.

namespace grid {

// What a row of a message is stored as.
__device__ inline float16 rounded(Half, float16 h) { return h; }
__device__ inline bfloat16 rounded(Bfloat, bfloat16 h) { return h; }
__device__ inline float rounded(Ieee, float v) { return v; }
__device__ inline bfloat16 rounded(Bfloat, float da) {
    bfloat16 row;
    narrow(da, row);
    return row;
}
template <typename P>
__device__ inline float rounded(P, float v) {
    return float_from_bits(tf32_from_float(v));
}

// The word of a message that a thread writes: of half types, one of two threads writes for both.
__device__ inline bool word_of(float v, unsigned& word) {
    word = bits(v);
    return true;
}

template <typename V>
__device__ inline bool word_of(V v, unsigned& word) {
    unsigned mine = bits(v);
    word = mine | __shfl_xor_sync(ALL, mine, 1) << 16;
    return threadIdx.x % 2 == 0;
}

// Which of the planned blocks this is.
struct Place {
    unsigned slice, replica;

    __device__ Place(const Work& work, unsigned block) : slice(block % work.slices), replica(block / work.slices) {}
};

// A thread's cell of a chain, if it is `there`. What fills up the units of the last slice is `told`, too, as zeros: 16
// bytes of a row belong together.
template <typename P>
struct Cell {
    static constexpr unsigned UNITS = COLUMNS * MT_OF<P> / GATES;
    unsigned row_of_chain, row, unit;
    bool told, there;

    __device__ Cell(const Work& work, const Place& place, unsigned chain) {
        row_of_chain = threadIdx.x / UNITS;
        row = chain * work.tiles * ROWS + row_of_chain, unit = place.slice * UNITS + threadIdx.x % UNITS;
        told = row_of_chain < work.tiles * ROWS && row < work.N && unit < work.pitch;
        there = told && unit < work.H;
    }
};

template <typename P, typename Do>
__device__ inline void all_cells(const Work& work, const Place& place, Do with) {
    for (unsigned chain = place.replica; chain < work.chains; chain += work.replicas) {
        const Cell<P> cell(work, place, chain);
        if (cell.there) with(cell.row, cell.unit);
    }
}

// Rows of a chain, but for those that only fill it up.
__device__ inline unsigned rows_of(const Work& work, unsigned chain) {
    unsigned high = ROWS * work.tiles, left = work.N - chain * high;
    return left < high ? left : high;
}

// With some of its blocks missing, the others fill in for them.
template <typename Lose>
__device__ inline bool complete(const Work& work, Lose lose) {
    unsigned planned = work.slices * work.replicas;
    if (gridDim.x == planned) return true;
    for (unsigned block = blockIdx.x; block < planned; block += gridDim.x) lose(Place(work, block));
    if (threadIdx.x == 0) *static_cast<volatile unsigned*>(work.report) = 2;
    return false;
}

// Leave, and let everybody leave.
template <typename Lose>
__device__ inline void leave(const Work& work, Lose lose) {
    if (threadIdx.x == 0) {
        put(work.alarm, 0);
        *static_cast<volatile unsigned*>(work.report) = 1;
    }
    lose();
}

// From step t on, NaN.
template <typename S, typename P>
__device__ inline void lose_forward(const Work& work, const Place& place, long long t) {
    float nan = float_from_bits(NAN_BITS);
    all_cells<P>(work, place, [&](unsigned row, unsigned unit) {
        for (long long s = t; s < work.T; ++s) {
            size_t cell = (s * work.N + row) * work.H + unit;
            for (unsigned j = 0; j < GATES; ++j)
                work.gates[(s * work.N + row) * GATES * work.H + j * work.H + unit] = nan;
            work.c[work.kept ? cell : size_t(row) * work.H + unit] = nan;
            narrow(nan, static_cast<S*>(work.h)[cell]);
        }
    });
}

// Step t reads message t, which is the h before it.
template <typename S, typename P, unsigned TILES>
__global__ void __launch_bounds__(LANES* WARPS, 1) forward(Work work) {
    typedef typename P::Row Row;
    if (!complete(work, [&](const Place& place) { lose_forward<S, P>(work, place, 0); })) return;
    const Place place(work, blockIdx.x);
    Block<S, P, TILES, false> block(work, place.slice);
    const unsigned H = work.H, high = ROWS * work.tiles, rows = work.chains * high, pitch = work.pitch;
    const size_t size = size_t(work.N) * H;
    auto message = [&](unsigned number, unsigned row) {
        return static_cast<Row*>(work.messages) + (size_t(number % PLACES) * rows + row) * pitch;
    };
    auto say = [&](const Cell<P>& cell, unsigned number, S h) {
        unsigned word;
        bool mine = word_of(rounded(P(), h), word) && cell.told;
        if (mine) tell(message(number, cell.row) + cell.unit, word);
        return mine;
    };
    for (unsigned chain = place.replica; chain < work.chains; chain += work.replicas) {
        const Cell<P> cell(work, place, chain);
        S h0 = {};
        if (cell.there) h0 = static_cast<const S*>(work.h0)[size_t(cell.row) * H + cell.unit];
        say(cell, 0, h0);
    }
    for (int t = 0; t < work.T; ++t)
        for (unsigned chain = place.replica; chain < work.chains; chain += work.replicas) {
            const Cell<P> cell(work, place, chain);
            const size_t at = size_t(cell.row) * H + cell.unit;
            float* gates = work.gates + size_t(t) * GATES * size + 3 * size_t(cell.row) * H + at;
            float* c = (work.kept ? work.c + t * size : work.c) + at;
            float a[GATES] = {}, gate[GATES] = {}, prev_c = 0, next_c = 0;
            if (cell.there) {
                for (unsigned j = 0; j < GATES; ++j) a[j] = gates[j * H];
                prev_c = *(t == 0 ? work.c0 + at : work.kept ? c - size : c);
            }
            Sums<P, TILES> result;
            bool here = block.multiply(work, result, message(t, chain * high), pitch, rows_of(work, chain));
            block.share(result);
            if (__syncthreads_or(!here)) return leave(work, [&] { lose_forward<S, P>(work, place, t); });
            S h = {};
            if (cell.there) {
                for (unsigned j = 0; j < GATES; ++j)
                    a[j] += block.total(cell.row_of_chain, threadIdx.x % cell.UNITS * GATES + j);
                forward_cell(a, prev_c, 1, gate, next_c, h);
            }
            bool mine = say(cell, t + 1, h);
            __syncthreads();  // the sums have been read
            renew(t + 1, [&](unsigned old) {
                if (mine) put(message(old, cell.row) + cell.unit, MISSING);
            });
            if (cell.there) {
                for (unsigned j = 0; j < GATES; ++j) gates[j * H] = gate[j];
                *c = next_c;
                static_cast<S*>(work.h)[t * size + at] = h;
                if (t + 1 < work.T)
                    for (unsigned j = 0; j < GATES; ++j) expect(gates + GATES * size + j * H);
            }
        }
}

// Up to step t, NaN.
template <typename P>
__device__ inline void lose_backward(const Work& work, const Place& place, long long t) {
    float nan = float_from_bits(NAN_BITS);
    all_cells<P>(work, place, [&](unsigned row, unsigned unit) {
        for (long long s = 0; s <= t; ++s)
            for (unsigned j = 0; j < GATES; ++j)
                narrow(
                    nan, static_cast<typename P::Row*>(work.da)[(s * work.N + row) * GATES * work.H + j * work.H + unit]);
        work.dh[size_t(row) * work.H + unit] = work.dc[size_t(row) * work.H + unit] = nan;
    });
}

// Step t is that of the gradients da; the last one, at -1, is that of h0 alone. A step reads the message of the one
// before it, if there is one, and so does a team at its sums.
template <typename S, typename P, unsigned TILES>
__global__ void __launch_bounds__(LANES* WARPS, 1) backward(Work work) {
    typedef typename P::Row Row;
    constexpr unsigned WIDE = COLUMNS * MT_OF<P>;
    if (!complete(work, [&](const Place& place) { lose_backward<P>(work, place, work.T - 1); })) return;
    const Place place(work, blockIdx.x);
    Block<S, P, TILES, true> block(work, place.slice);
    const unsigned H = work.H, high = ROWS * work.tiles, rows = work.chains * high, pitch = work.pitch;
    const unsigned team = place.slice / GATES, own = place.slice % GATES, units = work.slices / GATES * WIDE;
    const size_t size = size_t(work.N) * H;
    auto message = [&](unsigned number, unsigned row, unsigned gate) {
        return static_cast<Row*>(work.messages) + ((size_t(number % PLACES) * rows + row) * GATES + gate) * pitch;
    };
    auto sums_of = [&](unsigned number, unsigned row, unsigned unit) {
        return work.sums + ((size_t(number % PLACES) * rows + row) * units + unit) * GATES;
    };
    for (int t = work.T - 1; t >= -1; --t) {
        const unsigned number = work.T - 1 - t;
        for (unsigned chain = place.replica; chain < work.chains; chain += work.replicas) {
            const Cell<P> cell(work, place, chain);
            if (number > 0) {
                Sums<P, TILES> result;
                bool here = block.multiply(
                    work, result, message(number, chain * high, own), GATES * pitch, rows_of(work, chain));
                block.share(result);
                if (__syncthreads_or(!here)) return leave(work, [&] { lose_backward<P>(work, place, t); });
                for (unsigned k = threadIdx.x; k < WIDE * high; k += LANES * WARPS)
                    tell(
                        sums_of(number, chain * high + k / WIDE, team * WIDE + k % WIDE) + own,
                        bits(block.total(k / WIDE, k % WIDE)));
            }
            const size_t at = size_t(cell.row) * H + cell.unit;
            const size_t first = size_t(t) * GATES * size + 3 * size_t(cell.row) * H + at;
            float gate[GATES] = {}, da[GATES] = {}, c = 0, prev_c = 0, dc = 0, outer = 0, dh = 0;
            if (cell.there && t >= 0) {
                for (unsigned j = 0; j < GATES; ++j) gate[j] = work.gates[first + j * H];
                c = work.c[t * size + at], prev_c = t > 0 ? work.c[(t - 1) * size + at] : work.c0[at], dc = work.dc[at];
                size_t of = t * work.by_step + cell.row * work.by_row + cell.unit * work.by_unit;
                if (work.h)
                    outer = work.is_float ? static_cast<const float*>(work.h)[of]
                                          : widen(static_cast<const S*>(work.h)[of]);
            }
            bool here = true, mine = false;
            if (number > 0) {
                Sixteen sums = awaited(cell.there);
                here = heard(work, [&] {
                    look(sums, sums_of(number, cell.row, cell.unit), missing(sums));
                    return missing(sums);
                });
                for (unsigned j = 0; j < GATES; ++j) dh += float_from_bits(sums.word[j]);
            } else if (cell.there) dh = work.dh[at];
            if (t >= 0 && here) {
                if (cell.there) {
                    if (work.h) dh += outer;
                    backward_cell(dh, gate, 1, prev_c, c, dc, da);
                }
                for (unsigned j = 0; j < GATES; ++j) {
                    unsigned word;
                    mine = word_of(rounded(P(), da[j]), word) && cell.told;
                    if (mine) tell(message(number + 1, cell.row, j) + cell.unit, word);
                }
            }
            // Sums of the block have been read, too.
            if (__syncthreads_or(!here)) return leave(work, [&] { lose_backward<P>(work, place, t); });
            if (t < 0) {
                if (cell.there) work.dh[at] = dh;
                continue;
            }
            renew(number + 1, [&](unsigned old) {
                for (unsigned j = 0; j < GATES; ++j) {
                    if (mine) put(message(old, cell.row, j) + cell.unit, MISSING);
                    if (cell.there) put(sums_of(old, cell.row, cell.unit) + j, MISSING);
                }
            });
            if (cell.there) {
                for (unsigned j = 0; j < GATES; ++j) narrow(da[j], static_cast<Row*>(work.da)[first + j * H]);
                work.dc[at] = dc;
                if (t > 0)
                    for (unsigned j = 0; j < GATES; ++j) expect(work.gates + first + j * H - GATES * size);
            }
        }
    }
}

}  // namespace grid
