// What a call on whole sequences puts in order beside `stages.cu`. After cell.cuh and timeline.cuh; S, R, W as there.
// A block for each row, of step t and batch row n; or, of states (N, H), for each batch row.

// What gradients of weights are sums over, side by side: x_t, h_{t-1} and 1, for each step t and batch row n; then zeros
// up to the pitch. x (T, N, D), h (T, N, H) and h0 (N, H), which may be null for zeros, have any strides.
template <typename S, typename R, typename W>
__global__ void factors(
    const S* x, long long x_step, long long x_row, long long x_feature, const S* h, long long h_step, long long h_row,
    long long h_unit, const S* h0, long long h0_row, long long h0_unit, R* rows, const long long* lengths, int reverse,
    unsigned N, unsigned D, unsigned H, unsigned pitch) {
    const unsigned long long row = blockIdx.x, t = row / N, n = row % N;
    const Timeline timeline = {lengths, reverse};
    const bool valid = timeline.valid(t, n);
    const S *from_x = x + timeline.place(t, n) * x_step + n * x_row, *from_h = nullptr;
    if (t) from_h = h + timeline.place(t - 1, n) * h_step + n * h_row;
    else if (h0) from_h = h0 + n * h0_row, h_unit = h0_unit;
    for (unsigned k = threadIdx.x; k < pitch; k += blockDim.x) {
        W v = k == D + H;
        if (valid && k < D) v = widen(from_x[k * x_feature]);
        else if (valid && k < D + H && from_h) v = widen(from_h[(k - D) * h_unit]);
        narrow(v, rows[row * pitch + k]);
    }
}

template <typename S, typename W>
__global__ void rounded(const W* from, S* to, unsigned long long size) {
    unsigned long long place = blockIdx.x * (unsigned long long)(blockDim.x) + threadIdx.x;
    if (place < size) narrow(from[place], to[place]);
}

// Rows of several lengths

// Behind its length, a row has pre-activations that carry its cell state: i = 0, f = 1, o = 0, g = 0.
template <typename W>
__global__ void saturate(W* a, const long long* lengths, unsigned N, unsigned H) {
    const unsigned long long row = blockIdx.x, t = row / N, n = row % N;
    if (Timeline{lengths, 0}.valid(t, n)) return;
    const W big = sizeof(W) == 4 ? W(1.7e38) : W(8.9e307);
    for (unsigned j = threadIdx.x; j < 4 * H; j += blockDim.x)
        a[row * 4 * H + j] = j < H ? -big : j < 2 * H ? big : j < 3 * H ? -big : W(0);
}

// v (T, N, K), in the order of processing, into the caller's, with zeros behind the lengths. `to` is `from` where the
// orders are the same.
template <typename R>
__global__ void restore(const R* from, R* to, const long long* lengths, int reverse, unsigned N, unsigned K) {
    const unsigned long long row = blockIdx.x, t = row / N, n = row % N;
    const Timeline timeline = {lengths, reverse};
    const bool valid = timeline.valid(t, n);
    if (valid && from == to) return;
    from += row * K, to += (timeline.place(t, n) * N + n) * K;
    for (unsigned k = threadIdx.x; k < K; k += blockDim.x) to[k] = valid ? from[k] : R();
}

// The final states: h and c (T, N, H), in the order of processing, at each row's last step; h0 and c0, which have any
// strides and may be null for zeros, of a row that has none.
template <typename S, typename W>
__global__ void last(
    const S* h, const W* c, const S* h0, long long h0_row, long long h0_unit, const S* c0, long long c0_row,
    long long c0_unit, S* h_n, S* c_n, const long long* lengths, unsigned N, unsigned H) {
    const unsigned long long n = blockIdx.x, row = (lengths[n] - 1) * N + n;
    for (unsigned u = threadIdx.x; u < H; u += blockDim.x) {
        if (lengths[n]) {
            h_n[n * H + u] = h[row * H + u];
            narrow(c[row * H + u], c_n[n * H + u]);
        } else {
            h_n[n * H + u] = h0 ? h0[n * h0_row + u * h0_unit] : S();
            c_n[n * H + u] = c0 ? c0[n * c0_row + u * c0_unit] : S();
        }
    }
}

// The gradient of h from outside, in the order of processing: dh (T, N, H), zeros behind the lengths, and with it dh_n
// at each row's last step. Both have any strides, and either may be null for zeros.
template <typename S, typename W>
__global__ void enter(
    const S* dh, long long by_step, long long by_row, long long by_unit, const S* dh_n, long long n_row,
    long long n_unit, W* to, const long long* lengths, int reverse, unsigned N, unsigned H) {
    const unsigned long long row = blockIdx.x, t = row / N, n = row % N;
    const Timeline timeline = {lengths, reverse};
    const bool valid = timeline.valid(t, n), is_last = valid && !timeline.valid(t + 1, n);
    const S* from = dh + timeline.place(t, n) * by_step + n * by_row;
    for (unsigned u = threadIdx.x; u < H; u += blockDim.x) {
        W v = dh && valid ? widen(from[u * by_unit]) : 0;
        if (dh_n && is_last) v += widen(dh_n[n * n_row + u * n_unit]);
        to[row * H + u] = v;
    }
}

// Of rows without steps, the gradients of the final states are those of the initial ones.
template <typename S, typename W>
__global__ void straight(
    const S* dh_n, long long h_row, long long h_unit, const S* dc_n, long long c_row, long long c_unit, W* dh, W* dc,
    const long long* lengths, unsigned H) {
    const unsigned long long n = blockIdx.x;
    if (lengths[n]) return;
    for (unsigned u = threadIdx.x; u < H; u += blockDim.x) {
        dh[n * H + u] = dh_n ? widen(dh_n[n * h_row + u * h_unit]) : 0;
        dc[n * H + u] = dc_n ? widen(dc_n[n * c_row + u * c_unit]) : 0;
    }
}
