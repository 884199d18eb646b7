// One step of the LSTM in one kernel: a tile of the recurrent product, and the cell in its epilogue. After cell.cuh,
// mma.cuh and cluster.cuh.
//
//   S  what states are stored as: float16, bfloat16, float. All is computed in float.
//   P  the product: Half, Bfloat, Tf32 (on tensor cores) or Ieee (on FMA units)
//   MT, NT, HIGH, WARPS, SPLIT  a block has 16 * MT columns (forward: all four gates of 4 * MT units; backward: as many
//      units) and 8 * NT * HIGH rows of the batch. A warp multiplies all columns with 8 * NT rows, and shares the depth
//      with others: WARPS in each of the SPLIT blocks of a cluster, who then share out the rows of their cells. All
//      sums are added in order.
//
// The depth (H forward, 4H backward) is cut into chunks of 64 bytes of a row: four lanes with 16 bytes each. Where a
// chunk lies in the fragments of `mma` is free, as long as both factors agree: so a lane reads its 16 bytes at once.
// Both factors lie ready, lane by lane and chunk by chunk, with zeros behind their ends: Wh is packed once, and what a
// step computes it writes where the next step reads it, too, rounded for the product. So a warp asks for all of a chunk
// by two addresses, and on no condition, while it multiplies those before. No part of the product goes through shared
// memory but the sums.

const unsigned COLUMNS = 16;

// Clusters there are from compute capability 9.0 on; before, a kernel has SPLIT = 1.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define CLUSTER(blocks)
#else
#define CLUSTER(blocks) __cluster_dims__(blocks, 1, 1)
#endif

// What a launch works on. Graphs keep the place of a Job; its words are filled in before each replay.
struct Job {
    long long first, steps;  // the step of the first launch, and how many there are: launches beyond do nothing
    float* gates;            // (T, N, 4H); forward: in place of the pre-activations
    float* c;                // (T, N, H), or (N, H) if `kept` is 0
    const float* c0;
    void* h;  // forward: h (T, N, H); backward: the gradient of h from outside, of any strides, or null for zeros
    long long kept;    // forward: whether every step's c is
    void* da;          // backward: (T, N, 4H), as rows of the product are stored
    float *dh, *dc;    // backward: (N, H), dh_n and dc_n on the way in, dh0 and dc0 at the end
    long long by_step, by_row, by_unit;  // backward: strides of h
};

__global__ void fill(
    Job* job, long long first, long long steps, float* gates, float* c, const float* c0, void* h, long long kept,
    void* da, float* dh, float* dc, long long by_step, long long by_row, long long by_unit) {
    *job = Job{first, steps, gates, c, c0, h, kept, da, dh, dc, by_step, by_row, by_unit};
}

// Packing

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

// `across` times 16 columns of a block lie together, chunk by chunk.
template <typename S, typename P, bool BACKWARD>
__global__ void pack(
    const S* Wh, long long by_row, long long by_column, unsigned H, unsigned chunks, unsigned across, Sixteen* packed,
    unsigned size) {
    unsigned place = blockIdx.x * blockDim.x + threadIdx.x;
    if (place >= size) return;
    Weights<P, S, BACKWARD> weights = {Wh, by_row, by_column, H};
    unsigned tile = place / (2 * LANES), columns = (tile / across / chunks * across + tile % across) * COLUMNS;
    packed[place] = packed_part(weights, P(), columns, tile / across % chunks, place % (2 * LANES));
}

// Rows, packed: 8 * `down` of them lie together, chunk by chunk, and 8 by 8. Where value k of a row is.
template <typename P>
__device__ inline size_t place_of(unsigned row, unsigned k, unsigned chunks, unsigned down) {
    constexpr unsigned CHUNK = per_chunk<P>();
    size_t eight = (size_t(row / ROWS / down) * chunks + k / CHUNK) * down + row / ROWS % down;
    return (eight * ROWS + row % ROWS) * CHUNK + k % CHUNK;
}

// h0, for the first step.
template <typename S, typename P>
__global__ void pack_rows(
    const S* h0, unsigned N, unsigned H, unsigned chunks, unsigned down, typename P::Row* packed) {
    unsigned place = blockIdx.x * blockDim.x + threadIdx.x, row = place / H;
    if (row < N) packed[place_of<P>(row, place % H, chunks, down)] = P::row(h0[place]);
}

// Products

struct alignas(16) Four {
    float of[4];
};
__device__ inline void add(float& sum, float v) { sum += v; }
__device__ inline void add(Four& sum, const Four& v) {
    for (int j = 0; j < 4; ++j) sum.of[j] += v.of[j];
}

// What a warp multiplies at once: one chunk, or a part of it, of 16 * MT columns and 8 * NT rows.
template <typename P, int MT, int NT>
struct Factors {
    static constexpr int PARTS = 1, WORDS = 4 * (2 * MT + NT);
    Sixteen a[MT][2], b[NT];

    __device__ void load_weights(const Sixteen* weights, unsigned) {
#pragma unroll
        for (int m = 0; m < MT; ++m)
            for (int half = 0; half < 2; ++half)
                a[m][half] = weights[(2 * m + half) * LANES + threadIdx.x % LANES];
    }
    __device__ void load_rows(const Sixteen* rows, unsigned) {
#pragma unroll
        for (int n = 0; n < NT; ++n) b[n] = rows[n * LANES + threadIdx.x % LANES];
    }

    struct Sums {
        float d[MT][NT][4];

        __device__ void add(const Factors& by) {
#pragma unroll
            for (int half = 0; half < 2; ++half)
                for (int m = 0; m < MT; ++m)
                    for (int n = 0; n < NT; ++n)
                        P::mma(d[m][n], by.a[m][half], by.b[n].word[2 * half], by.b[n].word[2 * half + 1]);
        }
        template <int PITCH>
        __device__ void put(float* place) const {
            unsigned lane = threadIdx.x % LANES;
            place += lane % 4 * 2 * PITCH + lane / 4;
#pragma unroll
            for (int m = 0; m < MT; ++m)
                for (int n = 0; n < NT; ++n)
                    for (int j = 0; j < 4; ++j) place[(8 * n + j % 2) * PITCH + 16 * m + j / 2 * 8] = d[m][n][j];
        }
    };
};

// On FMA units: a quarter of a chunk. A lane has four columns of every so manieth row.
template <int MT, int NT>
struct Factors<Ieee, MT, NT> {
    static constexpr int FOURS = COLUMNS * MT / 4, APART = LANES / FOURS, OWN = ROWS * NT / APART;
    static constexpr int PARTS = 4, WORDS = 4 * (4 + OWN);
    Sixteen w[4], h[OWN];

    __device__ void load_weights(const Sixteen* weights, unsigned part) {
        unsigned four = threadIdx.x % FOURS;
#pragma unroll
        for (unsigned k = 0; k < 4; ++k) w[k] = weights[four / 4 * 2 * LANES + (4 * part + k) * 4 + four % 4];
    }
    __device__ void load_rows(const Sixteen* rows, unsigned part) {
#pragma unroll
        for (int r = 0; r < OWN; ++r) h[r] = rows[(threadIdx.x % LANES / FOURS + APART * r) * 4 + part];
    }

    struct Sums {
        float d[OWN][4];

        __device__ void add(const Factors& by) {
#pragma unroll
            for (int k = 0; k < 4; ++k)
                for (int r = 0; r < OWN; ++r)
                    for (int column = 0; column < 4; ++column)
                        d[r][column] += float_from_bits(by.h[r].word[k]) * float_from_bits(by.w[k].word[column]);
        }
        template <int PITCH>
        __device__ void put(float* place) const {
            unsigned lane = threadIdx.x % LANES;
            place += lane / FOURS * PITCH + lane % FOURS * 4;
#pragma unroll
            for (int r = 0; r < OWN; ++r)
                for (int column = 0; column < 4; ++column) place[APART * r * PITCH + column] = d[r][column];
        }
    };
};

// A block's part of the product.
template <typename P, int MT, int NT, int HIGH, int WARPS, int SPLIT>
struct Product {
    typedef Factors<P, MT, NT> Part;
    static constexpr unsigned WIDE = COLUMNS * MT, TALL = ROWS * NT * HIGH, THREADS = LANES * HIGH * WARPS;
    static constexpr unsigned ROWS_EACH = TALL / SPLIT;  // whose cells a block of a cluster has
    static constexpr unsigned PITCH = WIDE + 4;         // so that lanes meet no one in a bank
    // Parts on their way while others are multiplied: as many as there are registers for, beside those of sums, cells
    // and addresses.
    static constexpr int REGISTERS = THREADS > 256 ? 65536 / THREADS : 255;
    static constexpr int ROOM = (REGISTERS - int(sizeof(typename Part::Sums) / 4) - 72) / Part::WORDS;
    static constexpr unsigned AHEAD = ROOM < 1 ? 1 : ROOM > 4 ? 4 : ROOM;

    const Sixteen *weights, *rows;
    unsigned parts;
    Part ahead[AHEAD];

    __device__ static unsigned rank() { return blockIdx.x % SPLIT; }
    __device__ static size_t rows_size(unsigned chunks) { return size_t(gridDim.y) * HIGH * NT * LANES * chunks; }

    __device__ void load_weights(Part& part, unsigned number) const {
        size_t chunk = number / Part::PARTS * (SPLIT * WARPS);
        part.load_weights(weights + chunk * (MT * 2 * LANES), number % Part::PARTS);
    }
    __device__ void load_rows(Part& part, unsigned number) const {
        size_t chunk = number / Part::PARTS * (SPLIT * WARPS);
        part.load_rows(rows + chunk * (NT * LANES), number % Part::PARTS);
    }

    __device__ Product(const Sixteen* weights, const Sixteen* rows, unsigned chunks) : weights(weights), rows(rows) {
        unsigned warp = threadIdx.x / LANES, first = rank() * WARPS + warp % WARPS;
        this->weights += (size_t(blockIdx.x / SPLIT) * chunks + first) * (MT * 2 * LANES);
        this->rows += (size_t(blockIdx.y * HIGH + warp / WARPS) * chunks + first) * (NT * LANES);
        parts = first < chunks ? ((chunks - 1 - first) / (SPLIT * WARPS) + 1) * Part::PARTS : 0;
        // A step that is launched programmatically begins while those before it still run: until the last of them has
        // ended, it may read weights alone. No step writes these, and who does ends before the first step begins. The
        // job, rows, gates, c and dc are read after, and everything is written after: by then, nobody reads it, either,
        // as a step ends after the ends of all before it.
        let_next_begin();
#pragma unroll
        for (unsigned k = 0; k < AHEAD; ++k)
            if (k < parts) load_weights(ahead[k], k);
        await_previous();
#pragma unroll
        for (unsigned k = 0; k < AHEAD; ++k)
            if (k < parts) load_rows(ahead[k], k);
        __syncwarp();  // or ptxas would wait for the job before it asks for them
    }

    // Then sums are there for all threads of the block.
    __device__ void finish() {
        if constexpr (SPLIT > 1) {
            if (threadIdx.x == 0) prepare(arrival()), announce(arrival(), 4 * TALL * WIDE);
            cluster_begin();
        }
        typename Part::Sums sums = {};
        for (unsigned number = 0; number < parts; number += AHEAD)
#pragma unroll
            for (unsigned k = 0; k < AHEAD; ++k)
                if (number + k < parts) {
                    sums.add(ahead[k]);
                    if (unsigned next = number + k + AHEAD; next < parts) {
                        load_weights(ahead[k], next);
                        load_rows(ahead[k], next);
                    }
                }
        unsigned warp = threadIdx.x / LANES;
        sums.template put<PITCH>(of_warps() + (warp % WARPS * TALL + warp / WARPS * ROWS * NT) * PITCH);
        __syncthreads();
        if constexpr (SPLIT > 1) {
            cluster_wait();  // until all of its blocks are ready
            constexpr unsigned FOURS = TALL * WIDE / 4;
#pragma unroll
            for (unsigned k = 0; k < (FOURS + THREADS - 1) / THREADS; ++k) {
                unsigned place = threadIdx.x + k * THREADS, row = place / (WIDE / 4), at = place % (WIDE / 4) * 4;
                if (FOURS % THREADS && place >= FOURS) break;
                Four four = added<Four, WARPS>(of_warps() + row * PITCH + at, TALL * PITCH);
                Sixteen message;
                for (unsigned j = 0; j < 4; ++j) message.word[j] = bits_from_float(four.of[j]);
                const float* there = of_blocks() + (rank() * ROWS_EACH + row / SPLIT) * PITCH + at;
                send(message, there, arrival(), remote(row % SPLIT));
            }
            await(arrival(), 0);
        }
    }

    // One sum or four, in a row whose cells are this block's.
    template <typename V>
    __device__ static V total(unsigned row, unsigned column) {
        if constexpr (SPLIT > 1) return added<V, SPLIT>(of_blocks() + row / SPLIT * PITCH + column, ROWS_EACH * PITCH);
        else return added<V, WARPS>(of_warps() + row * PITCH + column, TALL * PITCH);
    }

    template <typename V, unsigned COUNT>
    __device__ static V added(const float* place, unsigned apart) {
        V sum = *reinterpret_cast<const V*>(place);
#pragma unroll
        for (unsigned k = 1; k < COUNT; ++k) add(sum, *reinterpret_cast<const V*>(place + k * apart));
        return sum;
    }

    // Shared memory: by warp, row and column; and of this block's rows, by block, row and column, and who counts them.
    __device__ static float* of_warps() { return reinterpret_cast<float*>(shared_memory()); }
    __device__ static float* of_blocks() { return of_warps() + WARPS * TALL * PITCH; }
    __device__ static Barrier* arrival() { return reinterpret_cast<Barrier*>(of_blocks() + TALL * PITCH); }
};

// Steps

// The cells of a block, number k of this thread. A thread has EACH of them, TURN at a time: what they need from memory
// is looked at together, and in the first turn while the product is made.
template <typename Block, unsigned UNITS, unsigned WORDS>
struct Cell {
    static constexpr unsigned SPLIT = Block::TALL / Block::ROWS_EACH, COUNT = UNITS * Block::ROWS_EACH;
    static constexpr unsigned EACH = (COUNT + Block::THREADS - 1) / Block::THREADS, MOST = 24 / WORDS;
    static constexpr unsigned TURNS = (EACH + MOST - 1) / MOST, TURN = (EACH + TURNS - 1) / TURNS;
    unsigned row_inside, unit_inside, row, unit;
    bool exists;
    size_t state, gate;  // where: in arrays (N, H) and (N, 4H)

    __device__ Cell(unsigned k, unsigned N, unsigned H) {
        unsigned place = threadIdx.x + k * Block::THREADS;
        row_inside = place / UNITS * SPLIT + Block::rank(), unit_inside = place % UNITS;
        row = blockIdx.y * Block::TALL + row_inside, unit = blockIdx.x / SPLIT * UNITS + unit_inside;
        exists = (COUNT % (Block::THREADS * TURN) == 0 || place < COUNT) && row < N && unit < H;
        state = size_t(row) * H + unit, gate = 3 * size_t(row) * H + state;
    }
};

// Launch `offset` after the job's first one: which of the two places of rows it reads; it writes into the other.
template <typename Block>
__device__ inline Sixteen* rows_of(Sixteen* rows, unsigned offset, unsigned chunks) {
    return rows + offset % 2 * Block::rows_size(chunks);
}

template <typename P>
__device__ inline unsigned chunks_of(unsigned depth) {
    return (depth + per_chunk<P>() - 1) / per_chunk<P>();
}

template <typename S, typename P, int MT, int NT, int HIGH, int WARPS, int SPLIT>
__global__ void CLUSTER(SPLIT) __launch_bounds__(LANES* HIGH* WARPS, 1)
    forward_step(const Job* job, const Sixteen* weights, Sixteen* rows, unsigned N, unsigned H, int offset) {
    typedef Product<P, MT, NT, HIGH, WARPS, SPLIT> Block;
    typedef Cell<Block, Block::WIDE / GATES, GATES + 1> Cell;
    unsigned chunks = chunks_of<P>(H);
    Block product(weights, rows_of<Block>(rows, offset, chunks), chunks);
    long long t = job->first + offset;
    if (t >= job->steps) return;
    auto next_rows = reinterpret_cast<typename P::Row*>(rows_of<Block>(rows, offset + 1u, chunks));
    size_t size = size_t(N) * H;
    S* h = static_cast<S*>(job->h) + t * size;
    float* gates = job->gates + t * GATES * size;
    float* c = job->kept ? job->c + t * size : job->c;
    const float* prev_c = t == 0 ? job->c0 : job->kept ? c - size : c;
    struct Given {
        Four a;
        float prev_c;
    } given[Cell::TURN] = {};
    auto look = [&](unsigned first) {
#pragma unroll
        for (unsigned k = 0; k < Cell::TURN; ++k) {
            Cell cell(first + k, N, H);
            if (!cell.exists) continue;
            for (unsigned j = 0; j < GATES; ++j) given[k].a.of[j] = gates[cell.gate + j * H];
            given[k].prev_c = prev_c[cell.state];
        }
    };
    look(0);
    product.finish();
    for (unsigned first = 0; first < Cell::EACH; first += Cell::TURN) {
        if (first) look(first);
#pragma unroll
        for (unsigned k = 0; k < Cell::TURN; ++k) {
            Cell cell(first + k, N, H);
            if (!cell.exists) continue;
            add(given[k].a, Block::template total<Four>(cell.row_inside, cell.unit_inside * GATES));
            S new_h;
            forward_cell(given[k].a.of, given[k].prev_c, H, gates + cell.gate, c[cell.state], new_h);
            h[cell.state] = new_h;
            next_rows[place_of<P>(cell.row, cell.unit, chunks, NT)] = P::row(new_h);
        }
    }
}

// Launch t of the steps: gradients of the step before the last by `first` and `offset`; after all of them that of h0.
template <typename S, typename P, int MT, int NT, int HIGH, int WARPS, int SPLIT>
__global__ void CLUSTER(SPLIT) __launch_bounds__(LANES* HIGH* WARPS, 1)
    backward_step(const Job* job, const Sixteen* weights, Sixteen* rows, unsigned N, unsigned H, int offset) {
    typedef Product<P, MT, NT, HIGH, WARPS, SPLIT> Block;
    typedef Cell<Block, Block::WIDE, 8> Cell;
    unsigned chunks = chunks_of<P>(GATES * H);
    Block product(weights, rows_of<Block>(rows, offset, chunks), chunks);
    long long t = job->steps - 1 - job->first - offset;
    if (t < -1) return;
    bool last = t == job->steps - 1;
    auto next_rows = reinterpret_cast<typename P::Row*>(rows_of<Block>(rows, offset + 1u, chunks));
    size_t size = size_t(N) * H;
    typename P::Row* da = static_cast<typename P::Row*>(job->da) + t * GATES * size;
    const float *gates = job->gates + t * GATES * size, *c = job->c + t * size, *prev_c = t > 0 ? c - size : job->c0;
    const S* outer = static_cast<const S*>(job->h);
    struct Given {
        float gates[GATES], prev_c, c, dc, outer;
    } given[Cell::TURN] = {};
    auto look = [&](unsigned first) {
#pragma unroll
        for (unsigned k = 0; k < Cell::TURN; ++k) {
            Cell cell(first + k, N, H);
            if (!cell.exists || t < 0) continue;
            for (unsigned j = 0; j < GATES; ++j) given[k].gates[j] = gates[cell.gate + j * H];
            given[k].prev_c = prev_c[cell.state], given[k].c = c[cell.state], given[k].dc = job->dc[cell.state];
            if (outer)
                given[k].outer = widen(outer[t * job->by_step + cell.row * job->by_row + cell.unit * job->by_unit]);
        }
    };
    look(0);
    if (!last) product.finish();
    for (unsigned first = 0; first < Cell::EACH; first += Cell::TURN) {
        if (first) look(first);
#pragma unroll
        for (unsigned k = 0; k < Cell::TURN; ++k) {
            Cell cell(first + k, N, H);
            if (!cell.exists) continue;
            Given& v = given[k];
            float dh = last ? job->dh[cell.state] : Block::template total<float>(cell.row_inside, cell.unit_inside);
            if (t < 0) {
                job->dh[cell.state] = dh;
                continue;
            }
            typename P::Row new_da[GATES];
            backward_cell(dh + v.outer, v.gates, 1, v.prev_c, v.c, v.dc, new_da);
            job->dc[cell.state] = v.dc;
            for (unsigned j = 0; j < GATES; ++j) {
                da[cell.gate + j * H] = new_da[j];
                next_rows[place_of<P>(cell.row, j * H + cell.unit, chunks, NT)] = P::row(new_da[j]);
            }
        }
    }
}
