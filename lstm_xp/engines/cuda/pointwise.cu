// The pointwise part of one step of the LSTM, forward and backward: the lines of cell.py, one thread per (row, unit).
//
//   S  what states are stored as: float16, bfloat16, float, double
//   W  what is computed with: float for the half types, else S itself
//
// Arrays of one step are contiguous: states (N, H), gates and their gradients (N, 4H) in the order i, f, o, g. `size` is
// N * H; 4 * N * H is below 2^31. Nothing is assumed to be finite. No header is included: NVRTC has none of its own.

#ifdef __CUDACC__  // what C++ has no words for
__device__ inline float float_from_half(unsigned short half) {
    float v;
    asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(half));
    return v;
}

__device__ inline unsigned short half_from_float(float v) {
    unsigned short half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(v));
    return half;
}

__device__ inline float float_from_bits(unsigned bits) { return __uint_as_float(bits); }
__device__ inline unsigned bits_from_float(float v) { return __float_as_uint(v); }
#endif

struct float16 {
    unsigned short bits;
};

struct bfloat16 {  // the upper half of a float
    unsigned short bits;
};

__device__ inline float widen(float16 v) { return float_from_half(v.bits); }
__device__ inline float widen(bfloat16 v) { return float_from_bits(unsigned(v.bits) << 16); }
__device__ inline float widen(float v) { return v; }
__device__ inline double widen(double v) { return v; }

__device__ inline void narrow(float v, float16& out) { out.bits = half_from_float(v); }
__device__ inline void narrow(float v, bfloat16& out) {
    unsigned bits = bits_from_float(v);
    bits += 0x7fffu + ((bits >> 16) & 1u);  // to the nearest, ties to even
    out.bits = v != v ? 0x7fff : bits >> 16;  // a NaN of all ones would become -0
}
__device__ inline void narrow(float v, float& out) { out = v; }
__device__ inline void narrow(double v, double& out) { out = v; }

// exp may overflow: 1 / (1 + inf) is the 0 that is wanted.
template <typename W>
__device__ inline W sigmoid(W z) {
    return W(1) / (W(1) + exp(-z));
}

// gates holds the pre-activations and is overwritten; prev_c and c may be one array.
template <typename S, typename W>
__global__ void cell_forward(W* gates, const W* prev_c, W* c, S* h, unsigned size, unsigned H) {
    unsigned place = blockIdx.x * blockDim.x + threadIdx.x;
    if (place >= size) return;
    unsigned row = place / H;
    W* a = gates + (3 * row * H + place);  // row * 4H + unit

    W i = sigmoid(a[0]);
    W f = sigmoid(a[H]);
    W o = sigmoid(a[2 * H]);
    W g = tanh(a[3 * H]);
    W next_c = f * prev_c[place] + i * g;
    a[0] = i;
    a[H] = f;
    a[2 * H] = o;
    a[3 * H] = g;
    c[place] = next_c;
    narrow(o * tanh(next_c), h[place]);
}

// outer is the gradient of h from outside, of any strides, or null for zeros; dh is that from the step after. dc enters
// as the gradient from the step after, and leaves as the one for the step before.
template <typename S, typename W>
__global__ void cell_backward(
    const S* outer, long long row_stride, long long unit_stride, const W* dh_next, const W* gates, const W* prev_c,
    const W* c, W* dc, W* da, unsigned size, unsigned H) {
    unsigned place = blockIdx.x * blockDim.x + threadIdx.x;
    if (place >= size) return;
    unsigned row = place / H;
    unsigned unit = place - row * H;
    unsigned start = 3 * row * H + place;
    const W* gate = gates + start;
    W* gradient = da + start;

    W i = gate[0], f = gate[H], o = gate[2 * H], g = gate[3 * H];
    W tanh_c = tanh(c[place]);
    W dh = dh_next[place];
    if (outer) dh += widen(outer[row * row_stride + unit * unit_stride]);
    W all_dc = dc[place] + dh * o * (W(1) - tanh_c * tanh_c);
    gradient[0] = all_dc * g * i * (W(1) - i);
    gradient[H] = all_dc * prev_c[place] * f * (W(1) - f);
    gradient[2 * H] = dh * tanh_c * o * (W(1) - o);
    gradient[3 * H] = all_dc * i * (W(1) - g * g);
    dc[place] = all_dc * f;
}
