// The product of a warp's columns of weights, which stay where they are for all steps, and some rows. After cell.cuh
// and mma.cuh.
//
// A warp multiplies four sets of 8 columns with NT tiles of 8 rows. The depth is cut into chunks of 64 bytes of a row.
// Rows lie in shared memory chunk by chunk, as lanes read them for `mma`; weights do, too, or in registers.

struct Tf32x3 {  // each factor as the sum of two: all but the product of the small ones
    typedef float Row;
    __device__ static unsigned weight(float v) { return bits_from_float(v); }
    __device__ static unsigned big(unsigned v) { return tf32_from_float(float_from_bits(v)); }
    __device__ static unsigned small(unsigned v) {
        return tf32_from_float(float_from_bits(v) - float_from_bits(big(v)));
    }
    __device__ static void mma(float (&d)[4], const Sixteen& a, unsigned b0, unsigned b1) {
        Sixteen large, rest;
        for (unsigned w = 0; w < 4; ++w) large.word[w] = big(a.word[w]), rest.word[w] = small(a.word[w]);
        mma_tf32(d, rest, big(b0), big(b1));
        mma_tf32(d, large, small(b0), small(b1));
        mma_tf32(d, large, big(b0), big(b1));
    }
};

// A value of a row, as whoever writes it rounds it, once for all who read.
template <typename P, typename V>
__device__ inline V rounded(P, V v) {
    return v;
}
__device__ inline float rounded(Tf32, float v) { return float_from_bits(tf32_from_float(v)); }
__device__ inline bfloat16 rounded(Bfloat, float v) {
    bfloat16 row;
    narrow(v, row);
    return row;
}

// Weights

// A weight as it is kept: as it is stored, or as a float.
__device__ inline void keep(float16 v, float16& kept) { kept = v; }
__device__ inline void keep(bfloat16 v, bfloat16& kept) { kept = v; }
template <typename S>
__device__ inline void keep(S v, float& kept) {
    kept = widen(v);
}

// Of one chunk, what a lane has: PER_LANE values of the depth for each of the columns g, 8 + g, 16 + g, 24 + g.
template <typename P, typename S>
struct Part {
    static constexpr unsigned PIECES = 4 * sizeof(S) / sizeof(typename P::Row), QUARTER = per_lane<P>() / 4;
    static constexpr bool NARROW = PIECES == 2;  // half types, multiplied with floats
    Sixteen piece[PIECES];

    // Piece p from weight(set, k), which is that of column 8 * set + g, value k of this lane's.
    template <typename Weight>
    __device__ static Sixteen gather(unsigned p, const Weight& weight) {
        Sixteen words = {};
#pragma unroll
        for (unsigned w = 0; w < 4; ++w)
            for (unsigned j = 0; j < (NARROW ? 2 : QUARTER); ++j) {
                unsigned set = (NARROW ? p : p / 2) * 2 + w % 2;
                S v = NARROW ? weight(set, j * 2 + w / 2) : weight(set, (p % 2 * 2 + w / 2) * QUARTER + j);
                words.word[w] |= (NARROW ? bits(v) : P::weight(v)) << (16 * j);
            }
        return words;
    }

    // The first factor of `mma` for sets 2m and 2m + 1, and one half of the chunk.
    __device__ Sixteen fragment(unsigned m, unsigned half) const {
        if constexpr (!NARROW) {
            return piece[2 * m + half];
        } else {
            Sixteen wide;
            for (unsigned w = 0; w < 4; ++w) {
                S v;
                v.bits = piece[m].word[w] >> (16 * half);
                wide.word[w] = bits_from_float(widen(v));  // TF32 has all digits of a half type
            }
            return wide;
        }
    }

    // Without this, what is made of parts in registers would be made once for all steps, and fill more of them.
    __device__ void stay() {
#ifdef __CUDACC__
#pragma unroll
        for (unsigned p = 0; p < PIECES; ++p)
            for (unsigned w = 0; w < 4; ++w) asm volatile("" : "+r"(piece[p].word[w]));
#endif
    }
};

// Where a warp has its parts, number k of them for chunk `first + apart * k`: HELD in registers, the others in shared
// memory.
template <typename P, typename S, int HELD>
struct Weights {
    typedef Part<P, S> One;
    One held[HELD];
    Sixteen* shared;  // this lane's

    __device__ One get(unsigned slot) const {
        One part;
#pragma unroll
        for (unsigned p = 0; p < One::PIECES; ++p) part.piece[p] = shared[(slot * One::PIECES + p) * LANES];
        return part;
    }

    // weight(set, k): of the warp's column 8 * set + g, at k of the depth. Each lane reads what it wrote itself.
    template <typename Weight>
    __device__ void load(unsigned count, unsigned first, unsigned apart, const Weight& weight) {
#pragma unroll
        for (unsigned k = 0; k < HELD; ++k) {  // registers have no numbers that a loop could count
            gather(0, first + apart * k, weight);
            held[k] = get(0);
        }
        for (unsigned k = HELD; k < count; ++k) gather(k - HELD, first + apart * k, weight);
    }

    template <typename Weight>
    __device__ void gather(unsigned slot, unsigned chunk, const Weight& weight) {
        unsigned begin = chunk * per_chunk<P>() + threadIdx.x % 4 * per_lane<P>();
#pragma unroll 1
        for (unsigned p = 0; p < One::PIECES; ++p)
            shared[(slot * One::PIECES + p) * LANES] =
                One::gather(p, [&](unsigned set, unsigned k) { return weight(set, begin + k); });
    }
};

// Sums of a warp: of(n, set, j) is column 8 * set + g, row 2t + j of tile n. In so many chains of terms, one or two,
// that do not wait for each other.
template <typename P, int NT, int CHAINS>
struct Sums {
    static constexpr bool SPREAD = false;
    float d[NT][2][CHAINS][4];

    __device__ float of(unsigned n, unsigned set, unsigned j) const {
        float sum = d[n][set / 2][0][set % 2 * 2 + j];
        return CHAINS == 1 ? sum : sum + d[n][set / 2][CHAINS - 1][set % 2 * 2 + j];
    }
    // Row lane / 4 of each tile, in this chunk.
    struct Rows {
        Sixteen part[NT];
        __device__ Rows(const Sixteen* rows) {
#pragma unroll
            for (unsigned n = 0; n < NT; ++n) part[n] = rows[n * LANES + threadIdx.x % LANES];
        }
    };
    template <typename S>
    __device__ void add(const Part<P, S>& weights, const Rows& rows) {
#pragma unroll
        for (unsigned half = 0; half < 2; ++half)
            for (unsigned m = 0; m < 2; ++m) {
                Sixteen a = weights.fragment(m, half);
                for (unsigned n = 0; n < NT; ++n)
                    P::mma(d[n][m][half % CHAINS], a, rows.part[n].word[2 * half], rows.part[n].word[2 * half + 1]);
            }
    }
    __device__ void finish() {}
};

// Each lane sums over its own part of the depth for 8 rows; then four lanes add theirs up.
template <int CHAINS>
struct Sums<Ieee, 1, CHAINS> {
    static constexpr bool SPREAD = true;
    float d[4][ROWS];

    __device__ float of(unsigned, unsigned set, unsigned j) const { return d[set][j]; }
    struct Rows {
        Sixteen part[ROWS];
        __device__ Rows(const Sixteen* rows) {
#pragma unroll
            for (unsigned row = 0; row < ROWS; ++row) part[row] = rows[row * 4 + threadIdx.x % 4];
        }
    };
    __device__ void add(const Part<Ieee, float>& weights, const Rows& rows) {
#pragma unroll
        for (unsigned k = 0; k < 4; ++k)
            for (unsigned set = 0; set < 4; ++set) {
                float weight = float_from_bits(weights.piece[set / 2 * 2 + k / 2].word[set % 2 + k % 2 * 2]);
                for (unsigned row = 0; row < ROWS; ++row)
                    d[set][row] += float_from_bits(rows.part[row].word[k]) * weight;
            }
    }
    // Of rows, a lane keeps the half that it will have, and gives the other one away: first 4 of 8, then 2 of 4.
    __device__ void finish() {
#pragma unroll
        for (unsigned keep = 4; keep >= 2; keep /= 2) {
            bool upper = threadIdx.x & keep / 2;
            for (unsigned set = 0; set < 4; ++set)
                for (unsigned row = 0; row < keep; ++row) {
                    float low = d[set][row], high = d[set][row + keep];
                    float other = __shfl_xor_sync(~0u, upper ? low : high, keep / 2);
                    d[set][row] = (upper ? high : low) + other;
                }
        }
    }
};

// With `count` parts, at least HELD; the first one's rows, and how far it is to the next one's.
template <typename Result, typename P, typename S, int HELD>
__device__ inline Result multiply(Weights<P, S, HELD>& weights, const Sixteen* rows, unsigned apart, unsigned count) {
    typedef typename Result::Rows Rows;
    Result sums = {};
#pragma unroll
    for (int k = 0; k < HELD; ++k) {
        weights.held[k].stay();
        sums.add(weights.held[k], Rows(rows + k * apart));
    }
    rows += HELD * apart;
    if constexpr (HELD * Part<P, S>::PIECES >= 32 && !Result::SPREAD) {
        // There are registers for the next part, which is on its way while one is multiplied.
        Part<P, S> next = weights.get(0);
#pragma unroll 1
        for (unsigned k = HELD; k < count; ++k, rows += apart) {
            Part<P, S> part = next;
            next = weights.get(k + 1 < count ? k + 1 - HELD : 0);
            sums.add(part, Rows(rows));
        }
    } else {
#pragma unroll 1
        for (unsigned k = HELD; k < count; ++k, rows += apart) sums.add(weights.get(k - HELD), Rows(rows));
    }
    sums.finish();
    return sums;
}

// Where 16 bytes of a row lie, value k of it first.
template <typename P, int NT>
__device__ inline unsigned place_of(unsigned row, unsigned k) {
    return (k / per_chunk<P>() * NT + row / ROWS) * LANES + row % ROWS * 4 + k % per_chunk<P>() / per_lane<P>();
}
