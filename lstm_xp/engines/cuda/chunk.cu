// The pointwise part of a step, as pointwise.cu has it, for launches that are replayed from a graph. After cell.cuh.
//
//   S  what states are stored as: float16, bfloat16, float, double; backward: what the gradient from outside is
//   W  what is computed with: float for the half types, else S itself
//   A  backward: what da is stored as, bfloat16 where weights are, else W
//   PARTS  of a sum: the product of the backward pass lies in so many
//
// A graph keeps addresses: that of its Chunk, whose words are filled in before each replay, and those of the two
// factors and the result of its products, (N, H) and (N, 4H), which are the same at every step. `size` is N * H;
// 4 * N * H is below 2^31. A launch of size 0 does nothing.
//
// What does not wait for the words of the Chunk is loaded first: a step takes hardly more than these loads in turn.

struct Chunk {
    long long first;  // the step of the first launch
    void* gates;      // (T, N, 4H); forward: in place of the pre-activations
    void* c;          // (T, N, H), or (N, H) if `kept` is 0
    const void* c0;
    void* h;         // forward: h (T, N, H); backward: the gradient of h from outside, of any strides, or null for zeros
    long long kept;  // forward: whether every step's c and gates are
    void *da, *dc;   // backward: (T, N, 4H); (N, H), dc_n on the way in, dc0 at the end
    long long by_step, by_row, by_unit;  // backward: strides of h
};

__global__ void fill_chunk(
    Chunk* chunk, long long first, void* gates, void* c, const void* c0, void* h, long long kept, void* da, void* dc,
    long long by_step, long long by_row, long long by_unit) {
    *chunk = Chunk{first, gates, c, c0, h, kept, da, dc, by_step, by_row, by_unit};
}

// product is the h of the step before times Wh, which the pre-activations lack; next_h the factor of the next product.
template <typename S, typename W>
__global__ void chunk_forward(
    const Chunk* __restrict__ chunk, const W* __restrict__ product, S* __restrict__ next_h, unsigned offset,
    unsigned size, unsigned H) {
    unsigned place = blockIdx.x * blockDim.x + threadIdx.x;
    if (place >= size) return;
    const Chunk all = *chunk;
    unsigned start = 3 * (place / H) * H + place;  // row * 4H + unit
    product += start;
    W a[4] = {product[0], product[H], product[2 * H], product[3 * H]};
    long long t = all.first + offset, step = t * size;
    W* gate = static_cast<W*>(all.gates) + 4 * step + start;
    W* c = static_cast<W*>(all.c) + (all.kept ? step : 0) + place;
    const W* before = t == 0 ? static_cast<const W*>(all.c0) + place : c - (all.kept ? size : 0);
    W prev_c = *before;
#pragma unroll
    for (unsigned j = 0; j < 4; ++j) a[j] += gate[j * H];
    W gates[4];
    S h;
    forward_cell(a, prev_c, 1, gates, *c, h);
    static_cast<S*>(all.h)[step + place] = h;
    next_h[place] = h;
    if (!all.kept) return;
#pragma unroll
    for (unsigned j = 0; j < 4; ++j) gate[j * H] = gates[j];
}

// dh_next is the gradient of h from the step after; factor is da once more, where the next product reads it.
template <typename S, typename W, typename A, unsigned PARTS>
__global__ void chunk_backward(
    const Chunk* __restrict__ chunk, const W* __restrict__ dh_next, A* __restrict__ factor, unsigned offset,
    unsigned size, unsigned H) {
    unsigned place = blockIdx.x * blockDim.x + threadIdx.x;
    if (place >= size) return;
    const Chunk all = *chunk;
    W parts[PARTS];
#pragma unroll
    for (unsigned k = 0; k < PARTS; ++k) parts[k] = dh_next[k * size + place];
    long long t = all.first - offset, step = t * size;
    unsigned row = place / H, unit = place - row * H, start = 3 * row * H + place;
    const W* gate = static_cast<const W*>(all.gates) + 4 * step + start;
    const W gates[4] = {gate[0], gate[H], gate[2 * H], gate[3 * H]};
    const W* c = static_cast<const W*>(all.c) + step + place;
    const W* before = t == 0 ? static_cast<const W*>(all.c0) + place : c - size;
    W *dc = static_cast<W*>(all.dc) + place, next_dc = *dc;
    Slopes<W> slopes(gates, 1, *before, *c);
    W dh = parts[0];
#pragma unroll
    for (unsigned k = 1; k < PARTS; ++k) dh += parts[k];
    if (all.h) dh += widen(static_cast<const S*>(all.h)[t * all.by_step + row * all.by_row + unit * all.by_unit]);
    A* da = static_cast<A*>(all.da) + 4 * step + start;
    A values[4];
    backward_cell(dh, slopes, 1, next_dc, values);
    *dc = next_dc;
    factor += start;
#pragma unroll
    for (unsigned j = 0; j < 4; ++j) da[j * H] = factor[j * H] = values[j];
}

// The parts of the last product, added in the order in which the steps add theirs.
template <typename W>
__global__ void chunk_sum(const W* __restrict__ parts, W* __restrict__ sum, unsigned count, unsigned size) {
    unsigned place = blockIdx.x * blockDim.x + threadIdx.x;
    if (place >= size) return;
    W v = parts[place];
    for (unsigned k = 1; k < count; ++k) v += parts[size_t(k) * size + place];
    sum[place] = v;
}
