// All steps of the LSTM in one launch, by clusters of blocks. After cell.cuh, mma.cuh, cluster.cuh and
// cluster_product.cuh.
//
//   S  what states and weights are stored as: float16, bfloat16, float. All is computed in float.
//   P  the product: Half, Bfloat, Tf32, Tf32x3 (on tensor cores) or Ieee (on FMA units)
//   C, NT  a cluster of C blocks computes 8 * NT rows of the batch: clusters know nothing of each other
//   HELD  so many parts of its weights each lane keeps in registers; the others are in shared memory
//
// A block owns U units, a multiple of 8: units [rank * U, rank * U + U), and keeps their 4U columns of Wh for the whole
// sequence. Each of its first U / 8 warps owns 8 of them, a lane (g = lane / 4, t = lane % 4) the cells of unit g in
// rows 2t and 2t + 1 of every 8 rows: their pre-activations and their c never leave its registers.
//
// Forward, every block needs all of h: it sends its own part to all. Backward, its units' da is enough for its share of
// every unit's dh: it sends each share to the unit's owner, who adds them up in the order of blocks.
//
// Units behind H have weights of zero and send zeros, rows behind N compute what nobody reads.
//
// Products: the columns of a warp are, forward, the four gates of its units; backward, 32 units of anyone. The depth
// is, forward, all units; backward, the block's 4U gates, in the order 4u + gate.

// Who is who

// Threads of a block, at most, for what fits into its memory.
__device__ constexpr unsigned most_threads(int C) { return C == 1 ? 512 : C == 4 ? 320 : C == 8 ? 224 : 192; }
__device__ constexpr unsigned most_threads_back(int C, unsigned bytes, int HELD) {
    return C == 1 ? 512 : C == 4 ? 320 : C == 8 ? 384 : bytes == 2 ? (HELD ? 384 : 640) : (HELD ? 256 : 384);
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
