// What a call on whole sequences puts in order beside `stages.cu`. After cell.cuh; S, R, W as there.

// What gradients of weights are sums over, side by side: x_t, h_{t-1} and 1, for each step t and batch row n; then zeros
// up to the pitch. x (T, N, D), h (T, N, H) and h0 (N, H), which may be null for zeros, have any strides.
template <typename S, typename R, typename W>
__global__ void factors(
    const S* x, long long x_step, long long x_row, long long x_feature, const S* h, long long h_step, long long h_row,
    long long h_unit, const S* h0, long long h0_row, long long h0_unit, R* rows, unsigned N, unsigned D, unsigned H,
    unsigned pitch) {
    unsigned long long row = blockIdx.x, t = row / N, n = row % N;
    const S *from_x = x + t * x_step + n * x_row, *from_h = nullptr;
    if (t) from_h = h + (t - 1) * h_step + n * h_row;
    else if (h0) from_h = h0 + n * h0_row, h_unit = h0_unit;
    for (unsigned k = threadIdx.x; k < pitch; k += blockDim.x) {
        W v = k == D + H;
        if (k < D) v = widen(from_x[k * x_feature]);
        else if (k < D + H && from_h) v = widen(from_h[(k - D) * h_unit]);
        narrow(v, rows[row * pitch + k]);
    }
}

template <typename S, typename W>
__global__ void rounded(const W* from, S* to, unsigned long long size) {
    unsigned long long place = blockIdx.x * (unsigned long long)(blockDim.x) + threadIdx.x;
    if (place < size) narrow(from[place], to[place]);
}
