// The product of a block of grid.cu: its slice of Wh, which stays on the chip, by rows of a message. After
// grid_messages.cuh.
//
//   S  what weights are stored as
//   P  the product: Half, Bfloat, Tf32, Ieee, or Widened<S>: weights of a half type, products as TF32

namespace grid {

template <typename S>
struct Widened {
    typedef float Row;
    __device__ static unsigned weight(S v) { return bits(v); }
    __device__ static void mma(float (&d)[4], const Sixteen& a, unsigned b0, unsigned b1) { mma_tf32(d, a, b0, b1); }
};

// How many times 16 bytes a lane has of the weights of 16 columns and a chunk of the depth; how often a slice has 16
// columns; and how many chunks each warp holds in registers: 96 of each thread, or 64 where widening takes others.
template <typename P>
constexpr unsigned PARTS_OF = 2;
template <typename S>
constexpr unsigned PARTS_OF<Widened<S>> = 1;
template <typename P>
constexpr unsigned MT_OF = PARTS_OF<P> == 2 && sizeof(typename P::Row) == 4 ? 3 : 4;
template <typename P>
constexpr unsigned HELD_OF = (PARTS_OF<P> == 2 ? 96 : 64) / (4 * MT_OF<P> * PARTS_OF<P>);

// Weights of a slice: column 4u + j is gate j of unit u, or all columns are units with one gate.
template <typename P, typename S, bool BACKWARD>
struct Slice {
    const S* Wh;
    long long by_row, by_column;
    unsigned H, gate;

    __device__ unsigned at(unsigned column, unsigned k) const {
        unsigned unit = BACKWARD ? column : column / GATES;
        if (unit >= H || k >= H) return 0;
        return P::weight(BACKWARD ? Wh[unit * by_row + (size_t(gate) * H + k) * by_column]
                                  : Wh[k * by_row + (size_t(column % GATES) * H + unit) * by_column]);
    }
};

// A lane's weights of 16 columns and a chunk: what `mma` multiplies by the 16 bytes that the lane reads of a row.
template <typename P, typename W>
__device__ inline void gather(P, Sixteen (&parts)[2], const W& weights, unsigned columns, unsigned chunk) {
    constexpr unsigned QUARTER = per_lane<P>() / 4;
    unsigned lane = threadIdx.x % LANES, k = chunk * per_chunk<P>() + lane % 4 * per_lane<P>();
    for (unsigned place = 0; place < 8 * QUARTER; ++place) {
        unsigned half = place / QUARTER / 4, w = place / QUARTER % 4, j = place % QUARTER;
        if (j == 0) parts[half].word[w] = 0;
        parts[half].word[w] |=
            weights.at(columns + lane / 4 + w % 2 * 8, k + (2 * half + w / 2) * QUARTER + j) << (16 * j);
    }
}

template <typename S, typename W>
__device__ inline void gather(Widened<S>, Sixteen (&parts)[1], const W& weights, unsigned columns, unsigned chunk) {
    Sixteen both[2];
    gather(Tf32(), both, weights, columns, chunk);
    for (unsigned w = 0; w < 4; ++w) parts[0].word[w] = both[0].word[w] | both[1].word[w] << 16;
}

template <typename P>
__device__ inline Sixteen fragment(P, const Sixteen (&parts)[2], unsigned half) {
    return parts[half];
}

template <typename S>
__device__ inline Sixteen fragment(Widened<S>, const Sixteen (&parts)[1], unsigned half) {
    Sixteen a;
    for (unsigned w = 0; w < 4; ++w)
        a.word[w] = bits_from_float(widen(S{static_cast<unsigned short>(parts[0].word[w] >> 16 * half)}));
    return a;
}

// Sums of a warp for NT times eight rows: `add` takes one chunk, of which a lane has read 16 bytes of one row of each
// eight. It may use a place in shared memory that is the warp's own. A lane reads a GROUP of chunks at once.
template <typename P, unsigned NT>
struct Sums {
    static constexpr unsigned MT = MT_OF<P>, PARTS = PARTS_OF<P>, GROUP = 2 * HELD_OF<P> / NT;
    float d[MT][NT][4] = {};

    __device__ void add(const Sixteen (&weights)[MT][PARTS], const Sixteen (&rows)[NT], Sixteen*) {
#pragma unroll
        for (unsigned m = 0; m < MT; ++m) {
            Sixteen first = fragment(P(), weights[m], 0), second = fragment(P(), weights[m], 1);
#pragma unroll
            for (unsigned n = 0; n < NT; ++n) {
                P::mma(d[m][n], first, rows[n].word[0], rows[n].word[1]);
                P::mma(d[m][n], second, rows[n].word[2], rows[n].word[3]);
            }
        }
    }

    __device__ void finish() {}
    __device__ float of(unsigned m, unsigned n, unsigned j) const { return d[m][n][j]; }
};

// On FMA units: a lane has the products of its own weights, two columns at four k, with all rows, which come from other
// lanes.
template <>
struct Sums<Ieee, 1> {
    static constexpr unsigned MT = MT_OF<Ieee>, GROUP = HELD_OF<Ieee>;
    float own[MT][2][ROWS] = {};

    __device__ void add(const Sixteen (&weights)[MT][2], const Sixteen (&rows)[1], Sixteen* place) {
        unsigned lane = threadIdx.x % LANES;
        __syncwarp();
        place[lane] = rows[0];
#pragma unroll
        for (unsigned r = 0; r < ROWS; ++r) {
            if (r % 2 == 0) __syncwarp();  // more than once, or rows would be read for which there are no registers
            Sixteen row = place[4 * r + lane % 4];
#pragma unroll
            for (unsigned m = 0; m < MT; ++m)
#pragma unroll
                for (unsigned second = 0; second < 2; ++second)
#pragma unroll
                    for (unsigned k = 0; k < 4; ++k)
                        own[m][second][r] += float_from_bits(row.word[k]) *
                                             float_from_bits(weights[m][k / 2].word[k % 2 * 2 + second]);
        }
    }

    // Of four lanes with the same columns each gets the whole sums of two rows, those that `mma` would give it.
    __device__ void finish() {
#pragma unroll
        for (unsigned m = 0; m < MT; ++m)
#pragma unroll
            for (unsigned second = 0; second < 2; ++second) {
                float(&v)[ROWS] = own[m][second];
#pragma unroll
                for (unsigned apart = 2; apart; apart /= 2)
#pragma unroll
                    for (unsigned r = 0; r < 2 * apart; ++r) {
                        bool upper = threadIdx.x & apart;
                        float keep = upper ? v[r + 2 * apart] : v[r], give = upper ? v[r] : v[r + 2 * apart];
                        v[r] = keep + __shfl_xor_sync(0xffffffff, give, apart);
                    }
            }
    }

    __device__ float of(unsigned m, unsigned, unsigned j) const { return own[m][j / 2][j % 2]; }
};

// One block's slice of the weights, and the sums of its warps.
template <typename S, typename P, unsigned NT, bool BACKWARD>
struct Block {
    static constexpr unsigned MT = MT_OF<P>, HELD = HELD_OF<P>, PARTS = PARTS_OF<P>, PITCH = COLUMNS * MT + 4;
    typedef typename P::Row Row;
    typedef float Eight[ROWS][PITCH];

    Sixteen held[HELD][MT][PARTS];
    Eight* sums;    // of each eight rows, of each warp
    Sixteen* kept;  // the chunks that are not held
    unsigned warp, lane, chunks, H;

    __device__ Block(const Work& work, unsigned slice) {
        warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
        H = work.H, chunks = work.pitch / per_chunk<P>();
        sums = reinterpret_cast<Eight*>(shared_memory());
        kept = reinterpret_cast<Sixteen*>(sums + WARPS * NT) + lane;
        Slice<P, S, BACKWARD> weights = {
            static_cast<const S*>(work.Wh), work.Wh_by_row, work.Wh_by_column, unsigned(work.H), slice % GATES};
        unsigned columns = (BACKWARD ? slice / GATES : slice) * COLUMNS * MT;
        // Through this warp's part of the memory, which is not filled yet: registers have to be told apart one by one.
        Sixteen* stage = kept + warp * MT * PARTS * LANES;
#pragma unroll
        for (unsigned i = 0; i < HELD; ++i) {
            gather_chunk(stage, weights, columns, i * WARPS + warp);
#pragma unroll
            for (unsigned m = 0; m < MT; ++m)
                for (unsigned part = 0; part < PARTS; ++part) held[i][m][part] = stage[(m * PARTS + part) * LANES];
        }
        __syncthreads();
        for (unsigned chunk = HELD * WARPS + warp; chunk < chunks; chunk += WARPS)
            gather_chunk(kept_at(chunk, 0, 0), weights, columns, chunk);
    }

    __device__ static void gather_chunk(
        Sixteen* to, const Slice<P, S, BACKWARD>& weights, unsigned columns, unsigned chunk) {
#pragma unroll 1
        for (unsigned m = 0; m < MT; ++m) {
            Sixteen parts[PARTS];
            gather(P(), parts, weights, columns + m * COLUMNS, chunk);
            for (unsigned part = 0; part < PARTS; ++part) to[(m * PARTS + part) * LANES] = parts[part];
        }
    }

    __device__ Sixteen* kept_at(unsigned chunk, unsigned m, unsigned part) const {
        return kept + (((chunk - HELD * WARPS) * MT + m) * PARTS + part) * LANES;
    }

    // This warp's share of the product with `count` rows of a message, `apart` values from each other; false if it is
    // time to leave. The warp's place for sums is used on the way.
    __device__ bool multiply(const Work& work, Sums<P, NT>& result, const Row* rows, size_t apart, unsigned count) const {
        constexpr unsigned GROUP = Sums<P, NT>::GROUP;
        static_assert(GROUP >= HELD, "what is held is of the first group");
        unsigned own_row = lane / 4, own_k = lane % 4 * per_lane<P>();
        rows += own_row * apart + own_k;
        Sixteen read[GROUP][NT];
        Sixteen* place = reinterpret_cast<Sixteen*>(sums[warp]);
        auto hear = [&](unsigned first) {
#pragma unroll
            for (unsigned i = 0; i < GROUP; ++i)
#pragma unroll
                for (unsigned n = 0; n < NT; ++n)
                    read[i][n] = awaited(
                        (first + i * WARPS) * per_chunk<P>() + own_k < H && ROWS * n + own_row < count);
            return heard(work, [&] {
                bool any = false;
#pragma unroll
                for (unsigned i = 0; i < GROUP; ++i)
#pragma unroll
                    for (unsigned n = 0; n < NT; ++n)
                        look(
                            read[i][n], rows + ROWS * n * apart + (first + i * WARPS) * per_chunk<P>(),
                            missing(read[i][n]));
#pragma unroll
                for (unsigned i = 0; i < GROUP; ++i)
#pragma unroll
                    for (unsigned n = 0; n < NT; ++n) any |= missing(read[i][n]);
                return any;
            });
        };
        for (unsigned first = warp; first < chunks; first += GROUP * WARPS) {
            if (!hear(first)) return false;
#pragma unroll
            for (unsigned i = 0; i < GROUP; ++i) {
                unsigned chunk = first + i * WARPS;
                if (chunk >= chunks) break;
                if (i < HELD && first == warp) {
                    result.add(held[i % HELD], read[i], place);
                } else {
                    Sixteen weights[MT][PARTS];
#pragma unroll
                    for (unsigned m = 0; m < MT; ++m)
                        for (unsigned part = 0; part < PARTS; ++part) weights[m][part] = *kept_at(chunk, m, part);
                    result.add(weights, read[i], place);
                }
            }
        }
        result.finish();
        return true;
    }

    // To where `total` finds them after a barrier.
    __device__ void share(const Sums<P, NT>& result) {
        __syncwarp();
#pragma unroll
        for (unsigned n = 0; n < NT; ++n)
#pragma unroll
            for (unsigned m = 0; m < MT; ++m)
                for (unsigned j = 0; j < 4; ++j)
                    sums[n * WARPS + warp][lane % 4 * 2 + j % 2][COLUMNS * m + lane / 4 + j / 2 * 8] =
                        result.of(m, n, j);
    }

    __device__ float total(unsigned row, unsigned column) const {
        const Eight* of = sums + row / ROWS * WARPS;
        float sum = of[0][row % ROWS][column];
        for (unsigned k = 1; k < WARPS; ++k) sum += of[k][row % ROWS][column];
        return sum;
    }
};

}  // namespace grid
