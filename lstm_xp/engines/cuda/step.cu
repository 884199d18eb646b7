// One step of the LSTM in one kernel: a tile of the recurrent product, and the cell in its epilogue. After
// cell.cuh and mma.cuh.
//
//   S  what states are stored as: float16, bfloat16, float. All is computed in float.
//   P  the product: Half, Bfloat, Tf32 (on tensor cores) or Ieee (on FMA units)
//   MT, NT, WARPS  a block computes 16 * MT columns (forward: all four gates of 4 * MT units; backward: as many units) of
//      8 * NT rows of the batch; each of its warps takes its share of the depth, and their sums are added in order
//
// The depth (H forward, 4H backward) is cut into chunks of 64 bytes of a row: four lanes with 16 bytes each. Where a
// chunk lies in the fragments of `mma` is free, as long as both factors agree: so a lane reads its 16 bytes at once, and
// the weights lie ready, lane by lane. No part of the product goes through shared memory but the sums.

const unsigned COLUMNS = 16;

// What a launch works on. Graphs keep the place of a Job; its words are filled in before each replay.
struct Job {
    long long first, steps;  // the step of the first launch, and how many there are: launches beyond do nothing
    float* gates;            // (T, N, 4H); forward: in place of the pre-activations
    float* c;                // (T, N, H), or (N, H) if `kept` is 0
    const float* c0;
    void* h;  // forward: h (T, N, H); backward: the gradient of h from outside, of any strides, or null for zeros
    const void* h0;                // forward
    long long kept;                // forward: whether every step's c is
    void* da;                      // backward: (T, N, 4H), as rows of the product are stored
    float *dh, *dc;                // backward: (N, H), dh_n and dc_n on the way in, dh0 and dc0 at the end
    long long by_step, by_row, by_unit;  // backward: strides of h
};

__global__ void fill(
    Job* job, long long first, long long steps, float* gates, float* c, const float* c0, void* h, const void* h0,
    long long kept, void* da, float* dh, float* dc, long long by_step, long long by_row, long long by_unit) {
    *job = Job{first, steps, gates, c, c0, h, h0, kept, da, dh, dc, by_step, by_row, by_unit};
}

// Products

// 16 bytes of a row from value k on; zeros behind its end. Rows that hold no whole number of 16 bytes are not aligned.
template <typename R>
__device__ inline Sixteen part_of_row(const R* row, unsigned k, unsigned depth) {
    constexpr unsigned PER_LANE = 16 / sizeof(R), PER_WORD = 4 / sizeof(R);
    Sixteen part = {};
    if (depth % PER_LANE == 0) {
        if (k < depth) part = *reinterpret_cast<const Sixteen*>(row + k);
    } else {
#pragma unroll
        for (unsigned j = 0; j < PER_LANE; ++j)
            if (k + j < depth) part.word[j / PER_WORD] |= bits(row[k + j]) << (j % PER_WORD * 16);
    }
    return part;
}

// Weights, packed: for every 16 columns and every chunk of the depth 64 times 16 bytes; zeros outside of Wh. Forward,
// column 4u + j is gate j of unit u, so that all gates of a unit are in one block; backward, a column is a unit.
template <typename P, typename S, bool BACKWARD>
struct Weights {
    const S* Wh;
    long long by_row, by_column;
    unsigned H;

    __device__ unsigned at(unsigned column, unsigned k) const {
        unsigned unit = BACKWARD ? column : column / GATES, depth = BACKWARD ? GATES * H : H;
        if (unit >= H || k >= depth) return 0;
        return P::weight(BACKWARD ? Wh[unit * by_row + k * by_column]
                                  : Wh[k * by_row + (column % GATES * H + unit) * by_column]);
    }
};

// As lanes read them for `mma`: 16 bytes, then 16 more, whose values 2 * (lane % 4) and so on of the depth, as `mma`
// counts, are those that the lane has of a row.
template <typename P, typename W>
__device__ inline Sixteen packed_part(const W& weights, P, unsigned columns, unsigned chunk, unsigned place) {
    constexpr unsigned QUARTER = per_lane<P>() / 4;
    unsigned half = place / LANES, lane = place % LANES;
    unsigned k = chunk * per_chunk<P>() + lane % 4 * per_lane<P>() + half * 2 * QUARTER;
    Sixteen part = {};
    for (unsigned w = 0; w < 4; ++w)
        for (unsigned j = 0; j < QUARTER; ++j)
            part.word[w] |= weights.at(columns + lane / 4 + w % 2 * 8, k + w / 2 * QUARTER + j) << (16 * j);
    return part;
}

// For FMA units: four columns at one k after the other.
template <typename W>
__device__ inline Sixteen packed_part(const W& weights, Ieee, unsigned columns, unsigned chunk, unsigned place) {
    Sixteen part;
    for (unsigned w = 0; w < 4; ++w)
        part.word[w] = weights.at(columns + place % 4 * 4 + w, chunk * per_chunk<Ieee>() + place / 4);
    return part;
}

template <typename S, typename P, bool BACKWARD>
__global__ void pack(
    const S* Wh, long long by_row, long long by_column, unsigned H, unsigned chunks, Sixteen* packed, unsigned size) {
    unsigned place = blockIdx.x * blockDim.x + threadIdx.x;
    if (place >= size) return;
    Weights<P, S, BACKWARD> weights = {Wh, by_row, by_column, H};
    unsigned tile = place / (2 * LANES);
    packed[place] = packed_part(weights, P(), tile / chunks * COLUMNS, tile % chunks, place % (2 * LANES));
}

// Sums of a block, by warp, row and column; rows are a little longer, so that lanes meet no one in a bank.
template <int MT, int NT, int WARPS>
struct Tile {
    static constexpr unsigned PITCH = COLUMNS * MT + 4;
    float sums[WARPS][ROWS * NT][PITCH];

    __device__ float total(unsigned row, unsigned column) const {
        float sum = sums[0][row][column];
        for (int warp = 1; warp < WARPS; ++warp) sum += sums[warp][row][column];
        return sum;
    }
};

// This warp's share of the product of the block's columns and rows, into the tile.
template <typename P, int MT, int NT, int WARPS>
__device__ inline void multiply(
    P, const Sixteen* packed, const typename P::Row* rows, unsigned N, unsigned depth, Tile<MT, NT, WARPS>& tile) {
    unsigned warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    unsigned chunks = (depth + per_chunk<P>() - 1) / per_chunk<P>(), first_row = blockIdx.y * ROWS * NT + lane / 4;
    packed += size_t(blockIdx.x) * MT * chunks * 2 * LANES + lane;
    float d[MT][NT][4] = {};
#pragma unroll 2
    for (unsigned chunk = warp; chunk < chunks; chunk += WARPS) {
        Sixteen a[MT][2], b[NT] = {};
#pragma unroll
        for (int m = 0; m < MT; ++m)
            for (int half = 0; half < 2; ++half) a[m][half] = packed[((m * chunks + chunk) * 2 + half) * LANES];
#pragma unroll
        for (int n = 0; n < NT; ++n) {
            unsigned row = first_row + ROWS * n;
            if (row < N)
                b[n] = part_of_row(
                    rows + size_t(row) * depth, chunk * per_chunk<P>() + lane % 4 * per_lane<P>(), depth);
            for (int w = 0; w < 4; ++w) b[n].word[w] = P::operand(b[n].word[w]);
        }
#pragma unroll
        for (int half = 0; half < 2; ++half)
            for (int m = 0; m < MT; ++m)
                for (int n = 0; n < NT; ++n)
                    P::mma(d[m][n], a[m][half], b[n].word[2 * half], b[n].word[2 * half + 1]);
    }
#pragma unroll
    for (int m = 0; m < MT; ++m)
        for (int n = 0; n < NT; ++n)
            for (int j = 0; j < 4; ++j)
                tile.sums[warp][ROWS * n + lane % 4 * 2 + j % 2][COLUMNS * m + lane / 4 + j / 2 * 8] = d[m][n][j];
}

// A lane has four columns of every so manieth row.
template <int MT, int NT, int WARPS>
__device__ inline void multiply(
    Ieee, const Sixteen* packed, const float* rows, unsigned N, unsigned depth, Tile<MT, NT, WARPS>& tile) {
    constexpr unsigned FOURS = COLUMNS * MT / 4, APART = LANES / FOURS, OWN = ROWS * NT / APART, PER_CHUNK = 16;
    static_assert(OWN >= 1, "every lane has a row");
    unsigned warp = threadIdx.x / LANES, lane = threadIdx.x % LANES, four = lane % FOURS;
    unsigned chunks = (depth + PER_CHUNK - 1) / PER_CHUNK, first_row = blockIdx.y * ROWS * NT + lane / FOURS;
    packed += (size_t(blockIdx.x) * MT + four / 4) * chunks * 2 * LANES + four % 4;
    float d[OWN][4] = {};
    for (unsigned chunk = warp; chunk < chunks; chunk += WARPS) {
#pragma unroll(OWN > 4 ? 1 : 2)  // more loads on their way would be spilled
        for (unsigned k = 0; k < PER_CHUNK; k += 4) {
            Sixteen h[OWN] = {};
#pragma unroll
            for (unsigned r = 0; r < OWN; ++r) {
                unsigned row = first_row + APART * r;
                if (row < N) h[r] = part_of_row(rows + size_t(row) * depth, chunk * PER_CHUNK + k, depth);
            }
#pragma unroll
            for (unsigned j = 0; j < 4; ++j) {
                Sixteen w = packed[chunk * 2 * LANES + (k + j) * 4];
                for (unsigned r = 0; r < OWN; ++r)
                    for (unsigned column = 0; column < 4; ++column)
                        d[r][column] += float_from_bits(h[r].word[j]) * float_from_bits(w.word[column]);
            }
        }
    }
#pragma unroll
    for (unsigned r = 0; r < OWN; ++r)
        for (unsigned column = 0; column < 4; ++column)
            tile.sums[warp][lane / FOURS + APART * r][4 * four + column] = d[r][column];
}

// Steps

template <typename S, typename P, int MT, int NT, int WARPS>
__global__ void __launch_bounds__(LANES* WARPS, 2)
    forward_step(const Job* job, const Sixteen* packed, unsigned N, unsigned H, int offset) {
    constexpr unsigned UNITS = COLUMNS * MT / GATES, CELLS = UNITS * ROWS * NT;
    __shared__ Tile<MT, NT, WARPS> tile;
    long long t = job->first + offset;
    if (t >= job->steps) return;
    size_t size = size_t(N) * H;
    S* h = static_cast<S*>(job->h) + t * size;
    multiply(P(), packed, t > 0 ? h - size : static_cast<const S*>(job->h0), N, H, tile);
    __syncthreads();
    float* gates = job->gates + t * GATES * size;
    float* c = job->kept ? job->c + t * size : job->c;
    const float* prev_c = t == 0 ? job->c0 : job->kept ? c - size : c;
    for (unsigned cell = threadIdx.x; cell < CELLS; cell += LANES * WARPS) {
        unsigned unit = blockIdx.x * UNITS + cell % UNITS, row = blockIdx.y * ROWS * NT + cell / UNITS;
        if (unit >= H || row >= N) continue;
        size_t place = size_t(row) * H + unit;
        float* gate = gates + 3 * size_t(row) * H + place;
        float a[GATES];
        for (unsigned j = 0; j < GATES; ++j) a[j] = gate[j * H] + tile.total(cell / UNITS, cell % UNITS * GATES + j);
        forward_cell(a, prev_c[place], H, gate, c[place], h[place]);
    }
}

// Launch t of the steps: gradients of the step before the last by `first` and `offset`; and after all of them that of h0.
template <typename S, typename P, int MT, int NT, int WARPS>
__global__ void __launch_bounds__(LANES* WARPS, 2)
    backward_step(const Job* job, const Sixteen* packed, unsigned N, unsigned H, int offset) {
    constexpr unsigned UNITS = COLUMNS * MT, CELLS = UNITS * ROWS * NT;
    __shared__ Tile<MT, NT, WARPS> tile;
    long long t = job->steps - 1 - job->first - offset;
    if (t < -1) return;
    bool last = t == job->steps - 1;
    size_t size = size_t(N) * H;
    typename P::Row* da = static_cast<typename P::Row*>(job->da) + t * GATES * size;
    if (!last) multiply(P(), packed, da + GATES * size, N, GATES * H, tile);
    __syncthreads();
    const float *gates = job->gates + t * GATES * size, *c = job->c + t * size, *prev_c = t > 0 ? c - size : job->c0;
    const S* outer = static_cast<const S*>(job->h);
    for (unsigned cell = threadIdx.x; cell < CELLS; cell += LANES * WARPS) {
        unsigned unit = blockIdx.x * UNITS + cell % UNITS, row = blockIdx.y * ROWS * NT + cell / UNITS;
        if (unit >= H || row >= N) continue;
        size_t place = size_t(row) * H + unit, gate = 3 * size_t(row) * H + place;
        float dh = last ? job->dh[place] : tile.total(cell / UNITS, cell % UNITS);
        if (t < 0) {
            job->dh[place] = dh;
            continue;
        }
        if (outer) dh += widen(outer[t * job->by_step + row * job->by_row + unit * job->by_unit]);
        backward_cell(dh, gates + gate, H, prev_c[place], c[place], job->dc[place], da + gate);
    }
}
