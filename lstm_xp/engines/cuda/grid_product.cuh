// The product of a block of grid.cu: its slice of Wh, which stays on the chip, by rows of a message. After
// grid_signals.cuh.
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

// Sums of a warp: `add` takes 16 columns and one chunk, with 16 bytes of each of the rows of `row`.
template <typename P>
struct Sums {
    static constexpr unsigned MT = MT_OF<P>, NT = 2, LOADS = NT, GROUP = HELD_OF<P>;
    float d[MT][NT][4] = {};

    __device__ static unsigned row(unsigned load) { return ROWS * load + threadIdx.x % LANES / 4; }

    __device__ void add(unsigned m, const Sixteen (&parts)[PARTS_OF<P>], const Sixteen (&b)[LOADS], unsigned tiles) {
        Sixteen first = fragment(P(), parts, 0), second = fragment(P(), parts, 1);
#pragma unroll
        for (unsigned n = 0; n < NT; ++n)
            if (n < tiles) {
                P::mma(d[m][n], first, b[n].word[0], b[n].word[1]);
                P::mma(d[m][n], second, b[n].word[2], b[n].word[3]);
            }
    }

    __device__ void finish() {}
    __device__ float of(unsigned m, unsigned n, unsigned j) const { return d[m][n][j]; }
};

// On FMA units: a lane has the products of its own weights, two columns at four k, with all rows.
template <>
struct Sums<Ieee> {
    static constexpr unsigned MT = MT_OF<Ieee>, NT = 1, LOADS = ROWS, GROUP = 1;
    float own[MT][2][ROWS] = {};

    __device__ static unsigned row(unsigned load) { return load; }

    __device__ void add(unsigned m, const Sixteen (&parts)[2], const Sixteen (&b)[LOADS], unsigned) {
#pragma unroll
        for (unsigned k = 0; k < 4; ++k)
#pragma unroll
            for (unsigned second = 0; second < 2; ++second)
#pragma unroll
                for (unsigned r = 0; r < ROWS; ++r)
                    own[m][second][r] +=
                        float_from_bits(b[r].word[k]) * float_from_bits(parts[k / 2].word[k % 2 * 2 + second]);
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

// One block's slice of the weights, and the sums of its warps for eight rows.
template <typename S, typename P, bool BACKWARD>
struct Block {
    static constexpr unsigned MT = MT_OF<P>, HELD = HELD_OF<P>, PARTS = PARTS_OF<P>, PITCH = COLUMNS * MT + 4;
    typedef typename P::Row Row;
    typedef float Eight[ROWS][PITCH];

    Sixteen held[HELD][MT][PARTS];
    Eight* sums;    // of each warp
    Sixteen* kept;  // the chunks that are not held
    unsigned warp, lane, chunks, pitch;

    __device__ Block(const Work& work, unsigned slice) {
        warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
        pitch = work.pitch, chunks = pitch / per_chunk<P>();
        sums = reinterpret_cast<Eight*>(shared_memory());
        kept = reinterpret_cast<Sixteen*>(sums + WARPS) + lane;
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
            gather_chunk(place(chunk, 0, 0), weights, columns, chunk);
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

    __device__ Sixteen* place(unsigned chunk, unsigned m, unsigned part) const {
        return kept + (((chunk - HELD * WARPS) * MT + m) * PARTS + part) * LANES;
    }

    // This warp's share of the product with the rows of a message, `apart` values from each other.
    __device__ void multiply(Sums<P>& result, const Row* rows, size_t apart, unsigned tiles) const {
        constexpr unsigned GROUP = Sums<P>::GROUP, LOADS = Sums<P>::LOADS;
        rows += lane % 4 * per_lane<P>();
        Sixteen b[GROUP][LOADS];
        auto load = [&](unsigned first) {
#pragma unroll
            for (unsigned i = 0; i < GROUP; ++i)
#pragma unroll
                for (unsigned j = 0; j < LOADS; ++j) {
                    unsigned chunk = first + i * WARPS, row = Sums<P>::row(j);
                    const Row* from = rows + row * apart + chunk * per_chunk<P>();
                    exchanged(b[i][j], from, chunk < chunks && row < ROWS * tiles);
                }
        };
        static_assert(HELD % GROUP == 0, "what is held is read in whole groups");
#pragma unroll
        for (unsigned group = 0; group < HELD; group += GROUP) {
            if (group * WARPS + warp >= chunks) break;
            load(group * WARPS + warp);
#pragma unroll
            for (unsigned i = 0; i < GROUP; ++i)
                if ((group + i) * WARPS + warp < chunks)
#pragma unroll
                    for (unsigned m = 0; m < MT; ++m) result.add(m, held[group + i][m], b[i], tiles);
        }
        for (unsigned first = HELD * WARPS + warp; first < chunks; first += GROUP * WARPS) {
            load(first);
#pragma unroll
            for (unsigned i = 0; i < GROUP; ++i)
                if (first + i * WARPS < chunks)
#pragma unroll
                    for (unsigned m = 0; m < MT; ++m) {
                        Sixteen parts[PARTS];
                        for (unsigned part = 0; part < PARTS; ++part) parts[part] = *place(first + i * WARPS, m, part);
                        result.add(m, parts, b[i], tiles);
                    }
        }
        result.finish();
    }

    // The n-th eight rows, to where `total` finds them after a barrier.
    __device__ void share(const Sums<P>& result, unsigned n) {
#pragma unroll
        for (unsigned m = 0; m < MT; ++m)
            for (unsigned j = 0; j < 4; ++j)
                sums[warp][lane % 4 * 2 + j % 2][COLUMNS * m + lane / 4 + j / 2 * 8] = result.of(m, n, j);
    }

    __device__ float total(unsigned row, unsigned column) const {
        float sum = sums[0][row][column];
        for (unsigned of = 1; of < WARPS; ++of) sum += sums[of][row][column];
        return sum;
    }
};

}  // namespace grid
