// All steps of the LSTM in one launch, by clusters of blocks. After cell.cuh, mma.cuh and cluster.cuh.
//
//   S  what states and weights are stored as: float16, bfloat16, float. All is computed in float.
//   P  the product: Half, Bfloat, Tf32, Tf32x3 (on tensor cores) or Ieee (on FMA units)
//   C, NT  a cluster of C blocks computes 8 * NT rows of the batch: clusters know nothing of each other
//   HELD  so many parts of its weights each lane keeps in registers; the others are in shared memory
//
// A block owns U units, a multiple of 8: units [rank * U, rank * U + U), and keeps their 4U columns of Wh for the whole
// sequence. Each of its first U / 8 warps owns 8 of them, a lane (g = lane / 4, t = lane % 4) the cells of unit g in rows
// 2t and 2t + 1 of every 8 rows: their pre-activations and their c never leave its registers.
//
// Forward, every block needs all of h: it sends its own part to all. Backward, its units' da is enough for its share of
// every unit's dh: it sends each share to the unit's owner, who adds them up in the order of blocks.
//
// Units behind H have weights of zero and send zeros, rows behind N compute what nobody reads.
//
// Products: a warp multiplies four times 8 columns (forward: the four gates of its units; backward: 32 units, of anyone)
// with 8 * NT rows. The depth (forward: all units; backward: the block's 4U gates, 4u + gate) is cut into chunks of 64 bytes
// of a row. Rows lie chunk by chunk, as lanes read them; and so do weights.

struct Tf32x3 {  // each factor as the sum of two: all but the product of the small ones
    typedef float Row;
    __device__ static unsigned weight(float v) { return bits_from_float(v); }
    __device__ static unsigned operand(unsigned word) { return word; }
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

// Weights

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

// Where a warp has its parts, one for each chunk: the first HELD of them in registers.
template <typename P, typename S, int HELD>
struct Weights {
    typedef Part<P, S> One;
    One held[HELD ? HELD : 1];
    Sixteen* shared;  // this lane's

    __device__ One get(unsigned slot) const {
        One part;
#pragma unroll
        for (unsigned p = 0; p < One::PIECES; ++p) part.piece[p] = shared[(slot * One::PIECES + p) * LANES];
        return part;
    }

    // weight(set, k): of the warp's column 8 * set + g, at k of the depth. Each lane reads what it wrote itself.
    template <typename Weight>
    __device__ void load(unsigned chunks, const Weight& weight) {
        unsigned in_chunk = threadIdx.x % 4 * per_lane<P>();
        for (int chunk = 0; chunk < int(chunks); ++chunk) {
            if constexpr (HELD > 0) {
                if (chunk == HELD)
#pragma unroll
                    for (int k = 0; k < HELD; ++k) held[k] = get(k);
            }
            unsigned slot = chunk < HELD ? chunk : chunk - HELD;
#pragma unroll
            for (unsigned p = 0; p < One::PIECES; ++p)
                shared[(slot * One::PIECES + p) * LANES] = One::gather(
                    p, [&](unsigned set, unsigned k) { return weight(set, chunk * per_chunk<P>() + in_chunk + k); });
        }
    }
};

// Sums of a warp: of(n, set, j) is column 8 * set + g, row 2t + j of tile n. In so many chains of terms, one or two, that
// do not wait for each other.
template <typename P, int NT, int CHAINS>
struct Sums {
    static constexpr unsigned TILES = NT;
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
            for (unsigned n = 0; n < NT; ++n) {
                part[n] = rows[n * LANES + threadIdx.x % LANES];
                for (unsigned w = 0; w < 4; ++w) part[n].word[w] = P::operand(part[n].word[w]);
            }
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
    static constexpr unsigned TILES = 1;
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

template <typename Result, typename P, typename S, int HELD>
__device__ inline Result multiply(Weights<P, S, HELD>& weights, const Sixteen* rows, unsigned chunks) {
    typedef typename Result::Rows Rows;
    Result sums = {};
    if constexpr (HELD > 0) {
#pragma unroll
        for (int chunk = 0; chunk < HELD; ++chunk) {
            weights.held[chunk].stay();
            sums.add(weights.held[chunk], Rows(rows + chunk * Result::TILES * LANES));
        }
    }
#pragma unroll(HELD ? 1 : 2)  // more loads on their way would be spilled
    for (unsigned chunk = HELD; chunk < chunks; ++chunk)
        sums.add(weights.get(chunk - HELD), Rows(rows + chunk * Result::TILES * LANES));
    sums.finish();
    return sums;
}

// Who is who

// Threads of a block, at most, for what fits into its memory.
__device__ constexpr unsigned most_threads(int C) { return C == 1 ? 512 : C == 4 ? 320 : C == 8 ? 224 : 192; }
__device__ constexpr unsigned most_threads_back(int C, unsigned bytes, int HELD) {
    return C == 1 ? 512 : C == 4 ? 320 : C == 8 ? 448 : bytes == 2 ? (HELD ? 384 : 640) : (HELD ? 256 : 384);
}

template <int C, int NT>
struct Self {
    unsigned N, H, U, rank, warp, g, t, unit;

    __device__ Self(unsigned N, unsigned H, unsigned U) : N(N), H(H), U(U) {
        rank = blockIdx.x % C, warp = threadIdx.x / LANES, g = threadIdx.x % LANES / 4, t = threadIdx.x % 4;
        unit = rank * U + 8 * warp + g;
    }
    __device__ unsigned row(unsigned n, unsigned j) const { return (blockIdx.x / C * NT + n) * ROWS + 2 * t + j; }
    __device__ bool exists(unsigned n, unsigned j) const { return warp < U / 8 && unit < H && row(n, j) < N; }
    // In arrays (N, H).
    __device__ size_t cell(unsigned n, unsigned j) const { return size_t(row(n, j)) * H + unit; }
    // In arrays (N, 4H).
    __device__ size_t gate(unsigned n, unsigned j) const { return size_t(row(n, j)) * GATES * H + unit; }
};

// Where 16 bytes of a row lie, value k of it first.
template <typename P, int NT>
__device__ inline unsigned place_of(unsigned row, unsigned k) {
    return (k / per_chunk<P>() * NT + row / ROWS) * LANES + row % ROWS * 4 + k % per_chunk<P>() / per_lane<P>();
}

// Forward

template <typename S, typename P, int C, int NT, int HELD>
__global__ void __cluster_dims__(C, 1, 1) __launch_bounds__(most_threads(C), 1) cluster_forward(
    const S* Wh, long long by_row, long long by_column, float* gates, float* c, const float* c0, S* h, const S* h0,
    int kept, unsigned T, unsigned N, unsigned H, unsigned U, unsigned slots) {
    constexpr unsigned PER_LANE = per_lane<P>(), PIECES = ROWS * NT * 8 / PER_LANE;
    Self<C, NT> self(N, H, U);
    unsigned warps = U / 8, chunks = (C * U + per_chunk<P>() - 1) / per_chunk<P>(), lane = threadIdx.x % LANES;
    unsigned size = chunks * NT * LANES, weight_size = slots * Part<P, S>::PIECES * LANES;
    Sixteen* shared = reinterpret_cast<Sixteen*>(shared_memory());
    Weights<P, S, HELD> weights;
    weights.shared = shared + self.warp * weight_size + lane;
    Sixteen* rows = shared + warps * weight_size;  // two buffers of h
    Sixteen* own = rows + 2 * size + self.warp * PIECES;  // the warp's part of h
    Mail mail = {reinterpret_cast<Barrier*>(rows + 2 * size + warps * PIECES), ROWS * NT * C * U * unsigned(sizeof(S))};

    if (threadIdx.x == 0) mail.open();
    weights.load(chunks, [&](unsigned set, unsigned k) {
        return self.unit < H && k < H ? Wh[k * by_row + (set * H + self.unit) * by_column] : S();
    });
    // h0, where number -1 would be; and zeros behind all units.
    for (unsigned k = threadIdx.x; k < size; k += blockDim.x) rows[k] = {};
    S* first = reinterpret_cast<S*>(rows + size);
    for (unsigned k = threadIdx.x; k < size * PER_LANE; k += blockDim.x) {
        unsigned place = k / PER_LANE, tile = place / LANES;
        unsigned unit = tile / NT * per_chunk<P>() + place % 4 * PER_LANE + k % PER_LANE;
        unsigned row = (blockIdx.x / C * NT + tile % NT) * ROWS + place % LANES / 4;
        first[k] = unit < H && row < N ? h0[size_t(row) * H + unit] : S();
    }
    float cell[NT][2], next[NT][2][GATES];
    auto prefetch = [&](unsigned t) {
#pragma unroll
        for (unsigned n = 0; n < NT; ++n)
            for (unsigned j = 0; j < 2; ++j)
                for (unsigned gate = 0; gate < GATES; ++gate)
                    next[n][j][gate] =
                        t < T && self.exists(n, j) ? gates[t * size_t(N) * GATES * H + self.gate(n, j) + gate * H] : 0;
    };
#pragma unroll
    for (unsigned n = 0; n < NT; ++n)
        for (unsigned j = 0; j < 2; ++j) cell[n][j] = self.exists(n, j) ? c0[self.cell(n, j)] : 0;
    prefetch(0);
    cluster_sync();

    for (unsigned t = 0; t < T; ++t) {
        float a[NT][2][GATES];
#pragma unroll
        for (unsigned n = 0; n < NT; ++n)
            for (unsigned j = 0; j < 2; ++j)
                for (unsigned gate = 0; gate < GATES; ++gate) a[n][j][gate] = next[n][j][gate];
        prefetch(t + 1);
        if (t > 0) mail.receive(t - 1);
        auto sums = multiply<Sums<P, NT, NT == 1 ? 2 : 1>>(weights, rows + (t + 1) % 2 * size, chunks);
        // Lanes have met in the product: all have sent what `own` held before.
#pragma unroll
        for (unsigned n = 0; n < NT; ++n)
            for (unsigned j = 0; j < 2; ++j) {
                float values[GATES];
                S new_h;
                for (unsigned gate = 0; gate < GATES; ++gate) a[n][j][gate] += sums.of(n, gate, j);
                forward_cell(a[n][j], cell[n][j], 1, values, cell[n][j], new_h);
                if (self.exists(n, j)) {
                    h[t * size_t(N) * H + self.cell(n, j)] = new_h;
                    if (kept)
                        for (unsigned gate = 0; gate < GATES; ++gate)
                            gates[t * size_t(N) * GATES * H + self.gate(n, j) + gate * H] = values[gate];
                    if (kept || t == T - 1) c[(kept ? t * size_t(N) * H : 0) + self.cell(n, j)] = cell[n][j];
                }
                reinterpret_cast<S*>(own)[(n * ROWS + 2 * self.t + j) * 8 + self.g] = self.unit < H ? new_h : S();
            }
        __syncwarp();
        if (t == T - 1) break;
        for (unsigned k = lane; k < C * PIECES; k += LANES) {
            unsigned piece = k % PIECES, row = piece * PER_LANE / 8, to = (k / PIECES + self.rank) % C;
            unsigned unit = self.rank * U + self.warp * 8 + piece * PER_LANE % 8;
            send(own[piece], rows + t % 2 * size + place_of<P, NT>(row, unit), mail.of(t), to);
        }
    }
}

// Backward

template <typename S, typename P, int C, int NT, int HELD>
__global__ void __cluster_dims__(C, 1, 1) __launch_bounds__(most_threads_back(C, sizeof(S), HELD), 1) cluster_backward(
    const S* Wh, long long by_row, long long by_column, const float* gates, const float* c, const float* c0,
    const void* outer, int wide, long long by_step, long long by_outer_row, long long by_unit, float* da, float* dh,
    float* dc, unsigned T, unsigned N, unsigned H, unsigned U, unsigned slots) {
    constexpr unsigned TALL = ROWS * NT, GROUPS = HELD ? 2 : 1;  // of 32 units, that a warp computes shares for
    Self<C, NT> self(N, H, U);
    unsigned chunks = U / 4, lane = threadIdx.x % LANES, busy = (C * U + 31) / 32 / GROUPS;  // warps that multiply
    unsigned size = C * U * TALL, weight_size = slots * Part<P, S>::PIECES * LANES;
    Sixteen* shared = reinterpret_cast<Sixteen*>(shared_memory());
    Weights<P, S, HELD> weights[GROUPS];
    Sixteen* rows = shared + busy * GROUPS * weight_size;  // da of the block's units
    float* shares = reinterpret_cast<float*>(rows + chunks * NT * LANES);  // two buffers (C, U, rows) of shares of dh
    Mail mail = {reinterpret_cast<Barrier*>(shares + 2 * size), size * 4};
    bool has_cells = self.warp < U / 8, multiplies = self.warp < busy;

    if (threadIdx.x == 0) mail.open();
    // The first unit of a set of columns.
    auto unit_of = [&](unsigned group, unsigned set) { return (self.warp + busy * group) * 32 + set * 8; };
#pragma unroll
    for (unsigned group = 0; group < GROUPS && multiplies; ++group) {
        weights[group].shared = shared + (self.warp + busy * group) * weight_size + lane;
        weights[group].load(chunks, [&](unsigned set, unsigned k) {
            unsigned to = unit_of(group, set) + self.g, from = self.rank * U + k / GATES;
            return to < H && from < H ? Wh[to * by_row + (k % GATES * H + from) * by_column] : S();
        });
    }
    float dc_t[NT][2], c_t[NT][2];
#pragma unroll
    for (unsigned n = 0; n < NT; ++n)
        for (unsigned j = 0; j < 2; ++j) {
            bool exists = self.exists(n, j);
            dc_t[n][j] = exists ? dc[self.cell(n, j)] : 0;
            c_t[n][j] = exists ? c[(T - 1) * size_t(N) * H + self.cell(n, j)] : 0;
        }
    // The gradient of h that comes from the step after.
    auto carried = [&](unsigned number, unsigned n, unsigned j) {
        const float* share = shares + number % 2 * size + (self.warp * 8 + self.g) * TALL + n * ROWS + 2 * self.t + j;
        float sum = share[0];
        for (unsigned from = 1; from < C; ++from) sum += share[from * U * TALL];
        return sum;
    };
    cluster_sync();

    for (unsigned number = 0; number < T; ++number) {  // of shares that are sent
        unsigned t = T - 1 - number;
        float gate[NT][2][GATES], prev_c[NT][2], from_outside[NT][2];
#pragma unroll
        for (unsigned n = 0; n < NT; ++n)
            for (unsigned j = 0; j < 2; ++j) {
                bool exists = self.exists(n, j);
                const float* prev = t > 0 ? c + (t - 1) * size_t(N) * H : c0;
                for (unsigned k = 0; k < GATES; ++k)
                    gate[n][j][k] = exists ? gates[t * size_t(N) * GATES * H + self.gate(n, j) + k * H] : 0;
                prev_c[n][j] = exists ? prev[self.cell(n, j)] : 0;
                long long place = t * by_step + self.row(n, j) * by_outer_row + self.unit * by_unit;
                from_outside[n][j] = !exists || !outer ? 0
                                     : wide            ? static_cast<const float*>(outer)[place]
                                                       : widen(static_cast<const S*>(outer)[place]);
            }
        if (number > 0) {
            mail.receive(number - 1);
            __syncthreads();  // all warps have read the da before this one
        }
#pragma unroll
        for (unsigned n = 0; n < NT; ++n)
            for (unsigned j = 0; j < 2; ++j) {
                bool exists = self.exists(n, j);
                float values[GATES] = {};
                if (exists) {
                    float dh_t = number > 0 ? carried(number - 1, n, j) : dh[self.cell(n, j)];
                    dh_t += from_outside[n][j];
                    backward_cell(dh_t, gate[n][j], 1, prev_c[n][j], c_t[n][j], dc_t[n][j], values);
                    for (unsigned k = 0; k < GATES; ++k)
                        da[t * size_t(N) * GATES * H + self.gate(n, j) + k * H] = values[k];
                }
                c_t[n][j] = prev_c[n][j];
                if (!has_cells) continue;
                Sixteen* place = rows + place_of<P, NT>(n * ROWS + 2 * self.t + j, GATES * (8 * self.warp + self.g));
                for (unsigned k = 0; k < GATES; ++k) place->word[k] = bits_from_float(values[k]);
            }
        __syncthreads();
#pragma unroll
        for (unsigned group = 0; group < GROUPS && multiplies; ++group) {
            auto sums = multiply<Sums<P, NT, NT == 1 && !HELD ? 2 : 1>>(weights[group], rows, chunks);
            for (unsigned set = 0; set < 4; ++set) {
                unsigned first = unit_of(group, set), to = first / U;  // one block owns all 8 units
                if (to >= C) continue;
                float* share = shares + number % 2 * size + (self.rank * U + first % U + self.g) * TALL + 2 * self.t;
                for (unsigned n = 0; n < NT; ++n)
                    send(sums.of(n, set, 0), sums.of(n, set, 1), share + n * ROWS, mail.of(number), to);
            }
        }
    }
    mail.receive(T - 1);
#pragma unroll
    for (unsigned n = 0; n < NT; ++n)
        for (unsigned j = 0; j < 2; ++j)
            if (self.exists(n, j)) {
                dh[self.cell(n, j)] = carried(T - 1, n, j);
                dc[self.cell(n, j)] = dc_t[n][j];
            }
}
