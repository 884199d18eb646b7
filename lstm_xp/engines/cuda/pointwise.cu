// The pointwise part of one step of the LSTM, forward and backward: one thread per row and unit. After cell.cuh.
//
//   S  what states are stored as: float16, bfloat16, float, double
//   W  what is computed with: float for the half types, else S itself
//   A  what da is stored as: bfloat16 where weights are, else W
//
// Arrays of one step are contiguous: states (N, H), gates and their gradients (N, 4H) in the order i, f, o, g. `size` is
// N * H; 4 * N * H is below 2^31.

// gates holds the pre-activations and is overwritten; prev_c and c may be one array.
template <typename S, typename W>
__global__ void cell_forward(W* gates, const W* prev_c, W* c, S* h, unsigned size, unsigned H) {
    unsigned place = blockIdx.x * blockDim.x + threadIdx.x;
    if (place >= size) return;
    unsigned row = place / H;
    W* gate = gates + (3 * row * H + place);  // row * 4H + unit
    W a[4] = {gate[0], gate[H], gate[2 * H], gate[3 * H]};
    forward_cell(a, prev_c[place], H, gate, c[place], h[place]);
}

// outer is the gradient of h from outside, of any strides, or null for zeros; dh_next is that from the step after.
template <typename S, typename W, typename A>
__global__ void cell_backward(
    const S* outer, long long row_stride, long long unit_stride, const W* dh_next, const W* gates, const W* prev_c,
    const W* c, W* dc, A* da, unsigned size, unsigned H) {
    unsigned place = blockIdx.x * blockDim.x + threadIdx.x;
    if (place >= size) return;
    unsigned row = place / H;
    unsigned unit = place - row * H;
    unsigned start = 3 * row * H + place;
    W dh = dh_next[place];
    if (outer) dh += widen(outer[row * row_stride + unit * unit_stride]);
    backward_cell(dh, gates + start, H, prev_c[place], c[place], dc[place], da + start);
}
