// All steps of the LSTM in one launch, Wh on the chip throughout. After grid_product.cuh.
//
// A *replica* is so many blocks that hold all of Wh between them. Each holds one *slice*: 16 * MT columns of a depth of
// H, in registers and in shared memory, lane by lane as `mma` wants it. Forward, that is all four gates of 4 * MT
// units; backward it is one gate of 16 * MT units, and the four blocks with the gates of the same units are a *team*,
// whose sums are added in order. In either case a block has the cells of 4 * MT units to itself.
//
// A *chain* is so many rows of the batch (8 * tiles): it never meets another one, and belongs to one replica. Where a
// replica has several, one is worked on while messages of the others are on their way.
//
// What all units of a step need of the step before (h forward, da backward) is a *message* in global memory: rows of
// the product, rounded for it, and padded with zeros, so that 16 bytes can be read anywhere. There are two places for
// it, in turn. A block that has written its part adds one to the chain's *signal*; who needs the message looks at the
// signal until all have. A place is written to again only after that, when nobody reads there any more. All blocks have
// to be on the device at once. Should a signal not come all the same, everybody leaves, and what was not computed is
// NaN.

namespace grid {

// What a row of a message is stored as.
__device__ inline float16 rounded(Half, float16 h) { return h; }
__device__ inline bfloat16 rounded(Bfloat, bfloat16 h) { return h; }
__device__ inline float rounded(Ieee, float v) { return v; }
template <typename P>
__device__ inline float rounded(P, float v) {
    return float_from_bits(tf32_from_float(v));
}

// Which of the planned blocks this is, and its cells: of eight rows of a chain each thread has one, or none.
template <typename P>
struct Place {
    static constexpr unsigned UNITS = COLUMNS * MT_OF<P> / GATES;
    unsigned slice, replica;

    __device__ Place(const Work& work, unsigned block) : slice(block % work.slices), replica(block / work.slices) {}

    __device__ bool cell(const Work& work, unsigned chain, unsigned n, unsigned& row, unsigned& unit) const {
        row = (chain * work.tiles + n) * ROWS + threadIdx.x / UNITS, unit = slice * UNITS + threadIdx.x % UNITS;
        return threadIdx.x < UNITS * ROWS && row < work.N && unit < work.H;
    }

    template <typename Do>
    __device__ void all_cells(const Work& work, Do with) const {
        unsigned row, unit;
        for (unsigned chain = replica; chain < work.chains; chain += work.replicas)
            for (unsigned n = 0; n < work.tiles; ++n)
                if (cell(work, chain, n, row, unit)) with(row, unit);
    }
};

// With some of its blocks missing, the others fill in for them.
template <typename P, typename Lose>
__device__ inline bool complete(const Work& work, Lose lose) {
    unsigned planned = work.slices * work.replicas;
    if (gridDim.x == planned) return true;
    for (unsigned block = blockIdx.x; block < planned; block += gridDim.x) lose(Place<P>(work, block));
    if (threadIdx.x == 0) *static_cast<volatile unsigned*>(work.report) = 2;
    return false;
}

// Leave, and let everybody leave.
template <typename Lose>
__device__ inline void leave(const Work& work, Lose lose) {
    if (threadIdx.x == 0) {
        add_one(signal_of(work, ALARM));
        *static_cast<volatile unsigned*>(work.report) = 1;
    }
    lose();
}

const unsigned NAN_BITS = 0x7fffffff;

// From step t on, NaN.
template <typename S, typename P>
__device__ inline void lose_forward(const Work& work, const Place<P>& place, long long t) {
    float nan = float_from_bits(NAN_BITS);
    place.all_cells(work, [&](unsigned row, unsigned unit) {
        for (long long s = t; s < work.T; ++s) {
            size_t cell = (s * work.N + row) * work.H + unit;
            for (unsigned j = 0; j < GATES; ++j)
                work.gates[(s * work.N + row) * GATES * work.H + j * work.H + unit] = nan;
            work.c[work.kept ? cell : size_t(row) * work.H + unit] = nan;
            narrow(nan, static_cast<S*>(work.h)[cell]);
        }
    });
}

template <typename S, typename P>
__global__ void __launch_bounds__(LANES* WARPS, 1) forward(Work work) {
    typedef typename P::Row Row;
    if (!complete<P>(work, [&](const Place<P>& place) { lose_forward<S>(work, place, 0); })) return;
    const Place<P> place(work, blockIdx.x);
    Block<S, P, false> block(work, place.slice);
    Row* messages = static_cast<Row*>(work.messages);
    const unsigned H = work.H, high = ROWS * work.tiles, rows = work.chains * high, pitch = work.pitch;
    unsigned row, unit;
    place.all_cells(work, [&](unsigned row, unsigned unit) {
        messages[size_t(row) * pitch + unit] = rounded(P(), static_cast<const S*>(work.h0)[size_t(row) * H + unit]);
    });
    for (unsigned chain = place.replica; chain < work.chains; chain += work.replicas)
        tell(signal_of(work, FIRST_CHAIN + chain));
    for (int t = 0; t < work.T; ++t)
        for (unsigned chain = place.replica; chain < work.chains; chain += work.replicas) {
            if (!heard(work, signal_of(work, FIRST_CHAIN + chain), (t + 1) * unsigned(work.slices)))
                return leave(work, [&] { lose_forward<S>(work, place, t); });
            Sums<P> result;
            block.multiply(result, messages + ((t % 2 ? rows : 0) + size_t(chain) * high) * pitch, pitch, work.tiles);
            const size_t size = size_t(work.N) * H;
            float* gates = work.gates + t * GATES * size;
            float* c = work.kept ? work.c + t * size : work.c;
            const float* prev_c = t == 0 ? work.c0 : work.kept ? c - size : c;
            S* h = static_cast<S*>(work.h) + t * size;
            Row* told = messages + size_t(t % 2 ? 0 : rows) * pitch;
#pragma unroll
            for (unsigned n = 0; n < Sums<P>::NT; ++n) {
                if (n >= work.tiles) break;
                __syncthreads();
                block.share(result, n);
                __syncthreads();
                if (!place.cell(work, chain, n, row, unit)) continue;
                size_t cell = size_t(row) * H + unit;
                float* gate = gates + 3 * size_t(row) * H + cell;
                float a[GATES];
                for (unsigned j = 0; j < GATES; ++j)
                    a[j] = gate[j * H] + block.total(threadIdx.x / place.UNITS, threadIdx.x % place.UNITS * GATES + j);
                forward_cell(a, prev_c[cell], H, gate, c[cell], h[cell]);
                told[size_t(row) * pitch + unit] = rounded(P(), h[cell]);
                if (t + 1 < work.T)
                    for (unsigned j = 0; j < GATES; ++j) expect(gate + GATES * size + j * H);
            }
            tell(signal_of(work, FIRST_CHAIN + chain));
        }
}

// Up to step t, NaN.
template <typename P>
__device__ inline void lose_backward(const Work& work, const Place<P>& place, long long t) {
    float nan = float_from_bits(NAN_BITS);
    place.all_cells(work, [&](unsigned row, unsigned unit) {
        for (long long s = 0; s <= t; ++s)
            for (unsigned j = 0; j < GATES; ++j)
                work.da[(s * work.N + row) * GATES * work.H + j * work.H + unit] = nan;
        work.dh[size_t(row) * work.H + unit] = work.dc[size_t(row) * work.H + unit] = nan;
    });
}

// Step t is that of the gradients da; the last one, at -1, is that of h0 alone.
template <typename S, typename P>
__global__ void __launch_bounds__(LANES* WARPS, 1) backward(Work work) {
    constexpr unsigned WIDE = COLUMNS * MT_OF<P>;
    if (!complete<P>(work, [&](const Place<P>& place) { lose_backward(work, place, work.T - 1); })) return;
    const Place<P> place(work, blockIdx.x);
    Block<S, P, true> block(work, place.slice);
    const unsigned H = work.H, high = ROWS * work.tiles, rows = work.chains * high, pitch = GATES * work.pitch;
    const unsigned team = place.slice / GATES, own = place.slice % GATES, teams = work.slices / GATES;
    unsigned row, unit;
    for (int t = work.T - 1; t >= -1; --t) {
        unsigned done = work.T - 1 - t;
        for (unsigned chain = place.replica; chain < work.chains; chain += work.replicas) {
            if (done > 0) {
                if (!heard(work, signal_of(work, FIRST_CHAIN + chain), done * work.slices))
                    return leave(work, [&] { lose_backward(work, place, t); });
                const float* messages = static_cast<const float*>(work.messages) + own * work.pitch;
                Sums<P> result;
                const float* rows_of = messages + ((t % 2 ? 0 : rows) + size_t(chain) * high) * pitch;
                block.multiply(result, rows_of, pitch, work.tiles);
#pragma unroll
                for (unsigned n = 0; n < Sums<P>::NT; ++n) {
                    if (n >= work.tiles) break;
                    __syncthreads();
                    block.share(result, n);
                    __syncthreads();
                    for (unsigned at = threadIdx.x; at < WIDE * ROWS; at += LANES * WARPS) {
                        row = own * rows + chain * high + n * ROWS + at / WIDE;
                        work.sums[(size_t(row) * teams + team) * WIDE + at % WIDE] = block.total(at / WIDE, at % WIDE);
                    }
                }
                unsigned* of_team = signal_of(work, FIRST_CHAIN + work.chains + chain * teams + team);
                tell(of_team);
                if (!heard(work, of_team, done * GATES)) return leave(work, [&] { lose_backward(work, place, t); });
            }
            const size_t size = size_t(work.N) * H;
            const float *gates = work.gates + t * GATES * size, *c = work.c + t * size;
            const float* prev_c = t > 0 ? c - size : work.c0;
            float* da = work.da + t * GATES * size;
            float* told = static_cast<float*>(work.messages) + size_t(t % 2 ? rows : 0) * pitch;
            for (unsigned n = 0; n < work.tiles; ++n) {
                if (!place.cell(work, chain, n, row, unit)) continue;
                size_t cell = size_t(row) * H + unit, gate = 3 * size_t(row) * H + cell;
                float dh = done > 0 ? 0 : work.dh[cell];
                for (unsigned j = 0; j < GATES && done > 0; ++j) {
                    float sum;
                    exchanged(sum, work.sums + (size_t(j) * rows + row) * teams * WIDE + unit, true);
                    dh += sum;
                }
                if (t < 0) {
                    work.dh[cell] = dh;
                    continue;
                }
                if (work.h) {
                    size_t outer = t * work.by_step + row * work.by_row + unit * work.by_unit;
                    dh += work.is_float ? static_cast<const float*>(work.h)[outer]
                                        : widen(static_cast<const S*>(work.h)[outer]);
                }
                backward_cell(dh, gates + gate, H, prev_c[cell], c[cell], work.dc[cell], da + gate);
                for (unsigned j = 0; j < GATES; ++j)
                    told[size_t(row) * pitch + j * work.pitch + unit] = rounded(P(), da[gate + j * H]);
                if (t > 0)
                    for (unsigned j = 0; j < GATES; ++j) expect(gates + gate + j * H - GATES * size);
            }
            if (t >= 0) tell(signal_of(work, FIRST_CHAIN + chain));
        }
    }
}

}  // namespace grid
