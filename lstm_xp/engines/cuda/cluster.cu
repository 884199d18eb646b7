// All steps of the LSTM in one launch, by clusters of blocks. After cell.cuh, mma.cuh, cluster.cuh and
// cluster_product.cuh.
//
//   S  what states and weights are stored as: float16, bfloat16, float. All is computed in float.
//   W  what weights are kept as: S; backward, where rows of the product are float, it may be float, too: then nothing is
//      widened at every step
//   P  the product: Half, Bfloat, Tf32, Tf32x3 (on tensor cores) or Ieee (on FMA units)
//   C, NT  a cluster of C blocks (backward at least 4) computes 8 * NT rows of the batch: clusters know nothing of each
//          other
//   KS  so many warps share the depth of a product
//   HELD  so many parts of its weights each lane keeps in registers; the others are in shared memory
//
// A block owns U units, a multiple of 8: units [rank * U, rank * U + U), and keeps their 4U columns of Wh for the whole
// sequence. Forward, every block needs all of h: it sends its own part to all. Backward, its units' da is enough for its
// share of every unit's dh: it sends each share to the unit's owner, who adds them up in the order of blocks.
//
// Products: a warp has four sets of 8 columns. Forward, these are the four gates of 8 units, and the depth is all units;
// backward they are 32 units of anyone, and the depth is the block's 4U gates, in the order 4u + gate. Warps that share a
// depth take its chunks in turn.
//
// Cells: 8 units of 4 rows belong to a warp, one to each lane, whose registers keep its c (backward dc) throughout.
//
// Units behind H have weights of zero and send zeros, rows behind N compute what nobody reads. What a step needs of
// global memory is read one step before; what it gives is stored after the messages are on their way.

// Threads of a block, at most, so that registers suffice: for so many parts of weights, for what a product takes beside
// them, and for cells.
template <typename P>
constexpr unsigned MORE_REGISTERS = 0;
template <>
constexpr unsigned MORE_REGISTERS<Ieee> = 40;
template <>
constexpr unsigned MORE_REGISTERS<Tf32x3> = 16;
template <typename P, typename S>
__device__ constexpr unsigned most_threads(unsigned parts, unsigned cells) {
    unsigned held = parts * Part<P, S>::PIECES * 4 + MORE_REGISTERS<P> + cells;
    return held <= 52 ? 512 : held <= 96 ? 384 : 256;
}

// What a backward pass takes for several groups and cells; two groups of half types do without.
template <typename P>
__device__ constexpr unsigned more_backward(int GROUPS, unsigned cells) {
    return (GROUPS > 1 && per_lane<P>() > 4 ? 0 : 8 * GROUPS) + 32 * (cells - 1);
}

// Cells of a thread, at most.
__device__ constexpr unsigned cells_forward(int NT, int KS) { return 2 * NT > KS ? 2 * NT / KS : 1; }
__device__ constexpr unsigned cells_backward(int C, int NT, int KS, int GROUPS) {
    return (8 * NT * GROUPS + C * KS - 1) / (C * KS);
}

// Who a thread is. CELLS of its warp, 8 units of 4 rows each: number k is `warps` further than the one before.
template <int C, int NT>
struct Self {
    unsigned N, H, U, rank, warps, warp, lane, g, t;

    __device__ Self(unsigned N, unsigned H, unsigned U) : N(N), H(H), U(U) {
        rank = blockIdx.x % C, warps = blockDim.x / LANES, warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
        g = lane / 4, t = lane % 4;
    }
};

struct Cell {
    unsigned row, unit;  // of its cluster and its block
    bool computed, exists;
    size_t state, gate;  // where: in arrays (N, H) and (N, 4H)

    Cell() = default;
    template <int C, int NT>
    __device__ Cell(const Self<C, NT>& self, unsigned number) {
        unsigned groups = self.U / 8, slot = self.warp + self.warps * number;
        row = slot / groups * 4 + self.lane / 8, unit = slot % groups * 8 + self.lane % 8;
        unsigned n = blockIdx.x / C * NT * ROWS + row, u = self.rank * self.U + unit;
        computed = row < NT * ROWS, exists = computed && u < self.H && n < self.N;
        state = size_t(n) * self.H + u, gate = state + 3 * size_t(n) * self.H;
    }
};

// Forward

template <typename S, typename P, int C, int NT, int KS, int HELD>
__global__ void __cluster_dims__(C, 1, 1)
    __launch_bounds__(most_threads<P, S>(HELD, 16 * cells_forward(NT, KS)), 1) cluster_forward(
        const S* Wh, long long by_row, long long by_column, float* gates, float* c, const float* c0, S* h, const S* h0,
        int kept, unsigned T, unsigned N, unsigned H, unsigned U, unsigned slots) {
    constexpr unsigned PER_LANE = per_lane<P>(), TALL = ROWS * NT, CELLS = cells_forward(NT, KS);
    constexpr unsigned PIECES = LANES / PER_LANE;  // of 16 bytes, of a warp's h
    const Self<C, NT> self(N, H, U);
    const unsigned groups = U / 8, group = self.warp % groups, part = self.warp / groups, lane = self.lane;
    const unsigned chunks = (C * U + per_chunk<P>() - 1) / per_chunk<P>(), count = (chunks + KS - 1) / KS;
    const unsigned size = KS * count * NT * LANES, weight_size = slots * Part<P, S>::PIECES * LANES, width = U + 1;
    Sixteen* shared = reinterpret_cast<Sixteen*>(shared_memory());
    Sixteen* rows = shared + self.warps * weight_size;  // two buffers of h
    Sixteen* sums = rows + 2 * size;  // two buffers, of a unit's gates, by part and row; lanes are in banks of their own
    Sixteen* own = sums + 2 * KS * TALL * width + self.warp * PIECES;  // the warp's h, on its way
    Mail mail = {
        reinterpret_cast<Barrier*>(sums + 2 * KS * TALL * width + self.warps * PIECES),
        TALL * C * U * unsigned(sizeof(S))};

    if (C > 1 && threadIdx.x == 0) mail.open();
    Weights<P, S, HELD> weights;
    weights.shared = shared + self.warp * weight_size + lane;
    weights.load(count, part, KS, [&](unsigned set, unsigned k) {
        unsigned unit = self.rank * U + group * 8 + self.g;
        return unit < H && k < H ? Wh[k * by_row + (size_t(set) * H + unit) * by_column] : S();
    });
    // h0, where number -1 would be; and zeros behind all units.
    for (unsigned k = threadIdx.x; k < size; k += blockDim.x) rows[k] = {};
    S* first = reinterpret_cast<S*>(rows + size);
    for (unsigned k = threadIdx.x; k < size * PER_LANE; k += blockDim.x) {
        unsigned place = k / PER_LANE, tile = place / LANES;
        unsigned unit = tile / NT * per_chunk<P>() + place % 4 * PER_LANE + k % PER_LANE;
        unsigned row = (blockIdx.x / C * NT + tile % NT) * ROWS + place % LANES / 4;
        first[k] = unit < H && row < N ? rounded(P(), h0[size_t(row) * H + unit]) : S();
    }
    Cell cell[CELLS];
    float c_t[CELLS], next[CELLS][GATES], *at[CELLS][GATES];  // where gates of this step are
    const size_t step = size_t(N) * H, c_step = kept ? step : 0;
#pragma unroll
    for (unsigned k = 0; k < CELLS; ++k) {
        cell[k] = Cell(self, k);
        c_t[k] = cell[k].exists ? c0[cell[k].state] : 0;
#pragma unroll
        for (unsigned j = 0; j < GATES; ++j) {
            at[k][j] = gates + cell[k].gate + j * H;
            next[k][j] = cell[k].exists ? *at[k][j] : 0;
        }
    }
    // Whom a lane sends its piece of h.
    constexpr unsigned SENDS = C * PIECES / LANES > 1 ? C * PIECES / LANES : 1;
    const unsigned piece = lane % PIECES;
    Remote remotes[SENDS];
#pragma unroll
    for (unsigned j = 0; j < SENDS; ++j) remotes[j] = remote((lane / PIECES + j * (LANES / PIECES) + self.rank) % C);
    if (C > 1) cluster_sync();
    else __syncthreads();
    if (C > 1 && threadIdx.x == 0) mail.expect();

    for (unsigned t = 0; t < T; ++t) {
        float a[CELLS][GATES], *ahead[CELLS][GATES];
        S new_h[CELLS] = {};
        Sixteen *told = rows + t % 2 * size, *sums_t = sums + t % 2 * KS * TALL * width;
#pragma unroll
        for (unsigned k = 0; k < CELLS; ++k)
#pragma unroll
            for (unsigned j = 0; j < GATES; ++j) {
                a[k][j] = next[k][j], ahead[k][j] = at[k][j] + GATES * step;
                next[k][j] = t + 1 < T && cell[k].exists ? *ahead[k][j] : 0;
            }
        if (C > 1 && t > 0) mail.receive(t - 1);
        {
            auto product = multiply<Sums<P, NT, NT == 1 ? 2 : 1>>(
                weights, rows + (t + 1) % 2 * size + part * NT * LANES, KS * NT * LANES, count);
#pragma unroll
            for (unsigned n = 0; n < NT; ++n)
#pragma unroll
                for (unsigned j = 0; j < 2; ++j) {
                    Sixteen four;
                    for (unsigned set = 0; set < GATES; ++set) four.word[set] = bits_from_float(product.of(n, set, j));
                    sums_t[(part * TALL + n * ROWS + 2 * self.t + j) * width + group * 8 + self.g] = four;
                }
        }
        __syncthreads();  // all sums are there
#pragma unroll
        for (unsigned k = 0; k < CELLS; ++k) {
            if (!cell[k].computed) break;  // all of the warp's
#pragma unroll
            for (unsigned from = 0; from < KS; ++from) {
                Sixteen four = sums_t[(from * TALL + cell[k].row) * width + cell[k].unit];
                for (unsigned j = 0; j < GATES; ++j) a[k][j] += float_from_bits(four.word[j]);
            }
            forward_cell(a[k], c_t[k], 1, a[k], c_t[k], new_h[k]);
            unsigned unit = self.rank * U + cell[k].unit;
            S message = unit < H ? rounded(P(), new_h[k]) : S();
            if (C == 1) {
                Sixteen* place = told + place_of<P, NT>(cell[k].row, unit / PER_LANE * PER_LANE);
                reinterpret_cast<S*>(place)[unit % PER_LANE] = message;
            } else if (t + 1 < T) {
                reinterpret_cast<S*>(own)[lane] = message;
                __syncwarp();
                unsigned row = cell[k].row - lane / 8 + piece * PER_LANE / 8;
                unsigned first_unit = unit - lane % 8 + piece * PER_LANE % 8;
                Sixteen v = own[piece], *place = told + place_of<P, NT>(row, first_unit);
#pragma unroll
                for (unsigned j = 0; j < SENDS; ++j)
                    if (lane < C * PIECES) send(v, place, mail.of(t), remotes[j]);
                __syncwarp();  // all have read what `own` held
            }
        }
        if (C == 1) __syncthreads();
#pragma unroll
        for (unsigned k = 0; k < CELLS; ++k) {
            if (cell[k].exists) {
                h[cell[k].state] = new_h[k];
                if (kept)
#pragma unroll
                    for (unsigned j = 0; j < GATES; ++j) *at[k][j] = a[k][j];
                if (kept || t == T - 1) c[cell[k].state] = c_t[k];
            }
#pragma unroll
            for (unsigned j = 0; j < GATES; ++j) at[k][j] = ahead[k][j];
        }
        h += step, c += c_step;
    }
}

// Backward. A warp computes shares for GROUPS times 32 units.

// da of a unit, in a row of the product.
template <typename R>
struct alignas(GATES * sizeof(R)) Four {
    R gate[GATES];
};

template <typename S, typename W, typename P, int C, int NT, int KS, int HELD, int GROUPS>
__global__ void __cluster_dims__(C, 1, 1)
    __launch_bounds__(
        most_threads<P, W>(HELD * GROUPS, more_backward<P>(GROUPS, cells_backward(C, NT, KS, GROUPS))), 1)
    cluster_backward(
        const S* Wh, long long by_row, long long by_column, const float* gates, const float* c, const float* c0,
        const void* outer, int wide, long long by_step, long long by_outer_row, long long by_unit, typename P::Row* da,
        float* dh, float* dc, unsigned T, unsigned N, unsigned H, unsigned U, unsigned slots) {
    constexpr unsigned TALL = ROWS * NT, SHARES = C * KS, CELLS = cells_backward(C, NT, KS, GROUPS);
    constexpr unsigned BUFFERS = GROUPS > 1 ? 1 : 2;  // of da: there is no room for two where warps have to do more
    constexpr unsigned UNIT = SHARES * TALL + 4;  // so that lanes with four rows of a unit each meet no one in a bank
    const Self<C, NT> self(N, H, U);
    const unsigned busy = self.warps / KS, group = self.warp % busy, part = self.warp / busy;
    const unsigned chunks = GATES * U / per_chunk<P>(), count = (chunks + KS - 1) / KS;
    const unsigned rows_size = KS * count * NT * LANES, size = U * UNIT;
    const unsigned weight_size = slots * Part<P, W>::PIECES * LANES;
    Sixteen* shared = reinterpret_cast<Sixteen*>(shared_memory());
    Sixteen* rows = shared + self.warps * GROUPS * weight_size;  // da of the block's units
    float* shares = reinterpret_cast<float*>(rows + BUFFERS * rows_size);  // two buffers of dh, by unit, share and row
    Mail mail = {reinterpret_cast<Barrier*>(shares + 2 * size), SHARES * U * TALL * 4};

    if (threadIdx.x == 0) mail.open();
    // The first unit of a set of columns.
    auto unit_of = [&](unsigned of_warp, unsigned set) { return (group + busy * of_warp) * 32 + set * 8; };
    Weights<P, W, HELD> weights[GROUPS];
#pragma unroll
    for (unsigned of_warp = 0; of_warp < GROUPS; ++of_warp) {
        weights[of_warp].shared = shared + (self.warp * GROUPS + of_warp) * weight_size + self.lane;
        weights[of_warp].load(count, part, KS, [&](unsigned set, unsigned k) {
            unsigned to = unit_of(of_warp, set) + self.g, from = k / GATES, unit = self.rank * U + from;
            bool exists = to < H && from < U && unit < H;
            W v;
            keep(exists ? Wh[to * by_row + (k % GATES * size_t(H) + unit) * by_column] : S(), v);
            return v;
        });
    }
    for (unsigned k = threadIdx.x; k < BUFFERS * rows_size; k += blockDim.x) rows[k] = {};
    Cell cell[CELLS];
    long long outside[CELLS];  // where the gradient of h from outside is
    float dc_t[CELLS], c_t[CELLS], gate[CELLS][GATES], prev_c[CELLS], from_outside[CELLS];
    constexpr unsigned KNOWN = GROUPS > 1 ? 1 : GATES;  // where registers are short, the others are counted from it
    const float* gate_at[CELLS][KNOWN] = {};
    auto place_of_gate = [&](unsigned k, unsigned j) {
        return KNOWN == 1 ? gate_at[k][0] + j * H : gate_at[k][j % KNOWN];
    };
    const size_t step = size_t(N) * H;
    da += GATES * step;  // where gates of a step are, counted from the first, is da of the one after
    c += (T - 1) * step;
    auto prefetch = [&](unsigned t) {  // of step t - 1
        c -= step;
        const float* prev = t > 1 ? c : c0;
#pragma unroll
        for (unsigned k = 0; k < CELLS; ++k) {
            bool needed = t > 0 && cell[k].exists;
#pragma unroll
            for (unsigned j = 0; j < KNOWN; ++j) gate_at[k][j] -= GATES * step;
#pragma unroll
            for (unsigned j = 0; j < GATES; ++j) gate[k][j] = needed ? *place_of_gate(k, j) : 0;
            prev_c[k] = needed ? prev[cell[k].state] : 0;
            outside[k] -= by_step;
            from_outside[k] = !needed || !outer ? 0
                              : wide            ? static_cast<const float*>(outer)[outside[k]]
                                                : widen(static_cast<const S*>(outer)[outside[k]]);
        }
    };
    // The gradient of h that comes from the step after.
    auto carried = [&](unsigned number, unsigned k) {
        const float* share = shares + number % 2 * size + cell[k].unit * UNIT + cell[k].row;
        float sum = share[0], other = SHARES > 1 ? share[TALL] : 0;
#pragma unroll
        for (unsigned from = 2; from < SHARES; ++from) (from % 2 ? other : sum) += share[from * TALL];
        return sum + other;
    };
#pragma unroll
    for (unsigned k = 0; k < CELLS; ++k) {
        cell[k] = Cell(self, k);
        dc_t[k] = cell[k].exists ? dc[cell[k].state] : 0;
        c_t[k] = cell[k].exists ? c[cell[k].state] : 0;
        unsigned row = blockIdx.x / C * TALL + cell[k].row, unit = self.rank * U + cell[k].unit;
        outside[k] = T * by_step + row * by_outer_row + unit * by_unit;
#pragma unroll
        for (unsigned j = 0; j < KNOWN; ++j) gate_at[k][j] = gates + (size_t(T) * GATES * step + cell[k].gate + j * H);
    }
    prefetch(T);
    // Of two sets of columns, a lane sends four rows of one: whose units they are (all 8 of one block), and where the
    // share lies.
    Remote owner[GROUPS][2];
    unsigned share_at[GROUPS][2];
    const bool odd = self.t % 2;
#pragma unroll
    for (unsigned of_warp = 0; of_warp < GROUPS; ++of_warp)
#pragma unroll
        for (unsigned pair = 0; pair < 2; ++pair) {
            unsigned first = unit_of(of_warp, 2 * pair + odd), unit = first % U + self.g;
            owner[of_warp][pair] = remote(first / U < C ? first / U : 0);
            share_at[of_warp][pair] = unit * UNIT + (self.rank * KS + part) * TALL + self.t / 2 * 4;
        }
    cluster_sync();
    if (threadIdx.x == 0) mail.expect();

    for (unsigned number = 0; number < T; ++number) {  // of shares that are sent
        unsigned t = T - 1 - number;
        float values[CELLS][GATES], dh_t[CELLS];
        Sixteen* da_t = rows + number % BUFFERS * rows_size;
        {
            Slopes<float> slopes[CELLS];
#pragma unroll
            for (unsigned k = 0; k < CELLS; ++k) {
                slopes[k] = Slopes<float>(gate[k], 1, prev_c[k], c_t[k]);
                dh_t[k] = from_outside[k], c_t[k] = prev_c[k];
            }
            prefetch(t);
            if (number > 0) mail.receive(number - 1);
            if (BUFFERS == 1) __syncthreads();  // all have read the da before
#pragma unroll
            for (unsigned k = 0; k < CELLS; ++k) {
                if (!cell[k].computed) break;  // all of the warp's
                if (number > 0) dh_t[k] += carried(number - 1, k);
                else if (cell[k].exists) dh_t[k] += dh[cell[k].state];
                backward_cell(dh_t[k], slopes[k], 1, dc_t[k], values[k]);
                Four<typename P::Row> four = {};
                for (unsigned j = 0; j < GATES && cell[k].exists; ++j) four.gate[j] = rounded(P(), values[k][j]);
                constexpr unsigned UNITS = per_lane<P>() / GATES;  // in 16 bytes
                unsigned unit = cell[k].unit / UNITS * UNITS;
                Sixteen* place = da_t + place_of<P, NT>(cell[k].row, GATES * unit);
                reinterpret_cast<Four<typename P::Row>*>(place)[cell[k].unit % UNITS] = four;
            }
        }
        auto store = [&] {
#pragma unroll
            for (unsigned k = 0; k < CELLS; ++k)
                if (cell[k].exists)
#pragma unroll
                    for (unsigned j = 0; j < GATES; ++j) narrow(values[k][j], da[place_of_gate(k, j) - gates]);
        };
        if (GROUPS > 1) store();
        // Who is past this has read the da before: nobody is two numbers behind.
        __syncthreads();
#pragma unroll
        for (unsigned of_warp = 0; of_warp < GROUPS; ++of_warp) {
            auto sums = multiply<Sums<P, NT, NT == 1 ? 2 : 1>>(
                weights[of_warp], da_t + part * NT * LANES, KS * NT * LANES, count);
#pragma unroll
            for (unsigned pair = 0; pair < 2; ++pair)
#pragma unroll
                for (unsigned n = 0; n < NT; ++n) {
                    // Rows 2t and 2t + 1 of both sets; those of one of them are the neighbour's.
                    float own[2], given[2];
                    for (unsigned j = 0; j < 2; ++j) {
                        float first = sums.of(n, 2 * pair, j), second = sums.of(n, 2 * pair + 1, j);
                        own[j] = odd ? second : first;
                        given[j] = __shfl_xor_sync(~0u, odd ? first : second, 1);
                    }
                    Sixteen four;
                    for (unsigned j = 0; j < 4; ++j)
                        four.word[j] = bits_from_float(j / 2 == odd ? own[j % 2] : given[j % 2]);
                    if (unit_of(of_warp, 2 * pair + odd) >= C * U) continue;
                    Sixteen* share = reinterpret_cast<Sixteen*>(
                        shares + number % 2 * size + share_at[of_warp][pair] + n * ROWS);
                    send(four, share, mail.of(number), owner[of_warp][pair]);
                }
        }
        if (GROUPS == 1) store();
    }
    mail.receive(T - 1);
#pragma unroll
    for (unsigned k = 0; k < CELLS; ++k)
        if (cell[k].exists) {
            dh[cell[k].state] = carried(T - 1, k);
            dc[cell[k].state] = dc_t[k];
        }
}
