// What all kernels are made of: types as they are stored, and the LSTM's cell for one unit of one row: the lines of
// cell.py. Nothing is assumed to be finite. No header is included: NVRTC has none of its own.

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

// 2^v and 1 / v, to one or two units of rounding, in one instruction each: 2^inf = inf, 1 / inf = 0, 1 / 1 = 1.
__device__ inline float power_of_two(float v) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(v));
    return power;
}

__device__ inline float reciprocal(float v) {
    float inverse;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(v));
    return inverse;
}

// Shared memory of the size that a launch asks for.
__device__ inline char* shared_memory() {
    extern __shared__ __align__(16) char memory[];
    return memory;
}
#endif

const unsigned GATES = 4;

// What one instruction reads and writes at most.
struct alignas(16) Sixteen {
    unsigned word[4];
};

struct float16 {
    unsigned short bits;
};

struct bfloat16 {  // the upper half of a float
    unsigned short bits;
};

__device__ inline unsigned bits(float16 v) { return v.bits; }
__device__ inline unsigned bits(bfloat16 v) { return v.bits; }
__device__ inline unsigned bits(float v) { return bits_from_float(v); }

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

// A step cannot begin before these are done: in float, there are no branches in them, and all gates' are computed at
// once. 2^v may overflow: 1 / (1 + inf) is the 0 that is wanted.
const float LOG2_E = 1.442695041f;
__device__ inline float falling(float z) { return reciprocal(1 + power_of_two(LOG2_E * z)); }  // 1 / (1 + e^z)
__device__ inline float sigmoid(float z) { return falling(-z); }
__device__ inline double sigmoid(double z) { return 1 / (1 + exp(-z)); }

// 1 - 2 / (1 + e^2|z|), or, where that would lose digits, an odd polynomial (to 4e-8 of its value).
__device__ inline float hyperbolic_tangent(float z, float falls) {
    float u = z * z, far = 1 - 2 * falls;
    float near = z + z * u * (-0.333329588f + u * (0.133209422f + u * (-0.0526841842f + u * 0.0164588261f)));
    return fabsf(z) < 0.55f ? near : copysignf(far, z);
}
__device__ inline float hyperbolic_tangent(float z) { return hyperbolic_tangent(z, falling(2 * fabsf(z))); }
__device__ inline double hyperbolic_tangent(double z) { return tanh(z); }

// The pre-activations a become the gates, which lie H apart; prev_c and c may be one place.
template <typename S, typename W>
__device__ inline void forward_cell(const W (&a)[GATES], const W& prev_c, unsigned H, W* gates, W& c, S& h) {
    W i = sigmoid(a[0]);
    W f = sigmoid(a[1]);
    W o = sigmoid(a[2]);
    W g = hyperbolic_tangent(a[3]);
    W next_c = f * prev_c + i * g;
    gates[0] = i;
    gates[H] = f;
    gates[2 * H] = o;
    gates[3 * H] = g;
    c = next_c;
    narrow(o * hyperbolic_tangent(next_c), h);
}

// What of the backward step does not wait for dh.
template <typename W>
struct Slopes {
    W f, to_dc, to_i, to_f, to_o, to_g;  // from dh to dc and da_o, from dc to the other da; f from dc to the step before

    Slopes() = default;
    __device__ Slopes(const W* gates, unsigned H, W prev_c, W c) : f(gates[H]) {
        W i = gates[0], o = gates[2 * H], g = gates[3 * H], tanh_c = hyperbolic_tangent(c);
        to_dc = o * (W(1) - tanh_c * tanh_c);
        to_i = g * i * (W(1) - i);
        to_f = prev_c * f * (W(1) - f);
        to_o = tanh_c * o * (W(1) - o);
        to_g = i * (W(1) - g * g);
    }
};

// dc enters as the gradient from the step after, and leaves as the one for the step before. da is stored as an A.
template <typename W, typename A>
__device__ inline void backward_cell(W dh, const Slopes<W>& slopes, unsigned H, W& dc, A* da) {
    W all_dc = dc + dh * slopes.to_dc;
    narrow(all_dc * slopes.to_i, da[0]);
    narrow(all_dc * slopes.to_f, da[H]);
    narrow(dh * slopes.to_o, da[2 * H]);
    narrow(all_dc * slopes.to_g, da[3 * H]);
    dc = all_dc * slopes.f;
}

template <typename W, typename A>
__device__ inline void backward_cell(W dh, const W* gates, unsigned H, W prev_c, W c, W& dc, A* da) {
    backward_cell(dh, Slopes<W>(gates, H, prev_c, c), H, dc, da);
}
