// All steps of the LSTM in one launch: each row of the batch is a block's, which keeps all of Wh in registers. After
// cell.cuh.
//
//   S  what states and weights are stored as: float16, bfloat16, float. All is computed in float.
//   A  what gradients of pre-activations are stored as: bfloat16 or float
//   UNITS  a multiple of 16, at least H
//
// Four lanes (a quad) belong to a unit, each to one of its gates. Of a product, each lane sums over its own quarter of
// the depth, and the quad adds that up. The factor that changes lies in shared memory, in two buffers, so that one
// barrier a step is enough: who writes into one of them has passed the barrier that all pass after they read it.
//
// Units behind H have weights of zero and say zero.

template <typename S>
__device__ inline S from_bits(unsigned bits) {
    if constexpr (sizeof(S) == 4) return float_from_bits(bits);
    else return S{static_cast<unsigned short>(bits)};
}

// Of the quad, the value of lane `from`; and the sum over all four.
__device__ inline float of_quad(float v, unsigned from) { return __shfl_sync(~0u, v, from, GATES); }
__device__ inline float sum_of_quad(float v) {
    v += __shfl_xor_sync(~0u, v, 1);
    return v + __shfl_xor_sync(~0u, v, 2);
}

// The lane with gate q gets the quad's sum for this gate.
__device__ inline float sum_of_gate(const float (&sums)[GATES], unsigned q) {
    bool upper = q & 2, odd = q & 1;
    float two[2];
    for (unsigned j = 0; j < 2; ++j) {
        float kept = upper ? sums[2 + j] : sums[j], given = upper ? sums[j] : sums[2 + j];
        two[j] = kept + __shfl_xor_sync(~0u, given, 2);
    }
    return (odd ? two[1] : two[0]) + __shfl_xor_sync(~0u, odd ? two[0] : two[1], 1);
}

// So many blocks of a processor at once, at least: two have half of its registers each. Not all compilers make do.
#if __CUDA_ARCH__ == 900
const int TOGETHER = 2;
#else
const int TOGETHER = 1;
#endif

template <typename S, int UNITS>
__global__ void __launch_bounds__(GATES* UNITS, TOGETHER) rows_forward(
    const S* Wh, long long by_row, long long by_column, float* gates, float* c, const float* c0, S* h, const S* h0,
    int kept, unsigned T, unsigned N, unsigned H) {
    constexpr unsigned PARTS = UNITS / 16;  // of a lane's quarter, four units each
    constexpr unsigned AHEAD = 2;  // steps, before which is asked for what one needs of global memory
    const unsigned u = threadIdx.x / GATES, q = threadIdx.x % GATES, state = blockIdx.x * H + u;
    const bool exists = u < H;
    float* told = reinterpret_cast<float*>(shared_memory());  // h, in two buffers

    float weight[PARTS][4][GATES];  // of units 16 * part + 4 * q + j
#pragma unroll
    for (unsigned part = 0; part < PARTS; ++part)
#pragma unroll
        for (unsigned j = 0; j < 4; ++j)
#pragma unroll
            for (unsigned gate = 0; gate < GATES; ++gate) {
                unsigned from = 16 * part + 4 * q + j;
                weight[part][j][gate] =
                    exists && from < H ? widen(Wh[from * by_row + (size_t(gate) * H + u) * by_column]) : 0;
            }
    if (q == 0) told[u] = exists ? widen(h0[state]) : 0;
    const size_t step = size_t(N) * H, c_step = kept ? step : 0;
    gates += 3 * size_t(blockIdx.x) * H + state + q * H, h += state, c += state;
    float c_t = exists ? c0[state] : 0, own = 0, next[AHEAD];
    S h_t = {};
    auto store = [&] {
        if (exists) {
            if (kept) *gates = own;
            if (kept && q == 1) *c = c_t;
            if (q == 0) *h = h_t;
        }
        gates += GATES * step, h += step, c += c_step;
    };
#pragma unroll
    for (unsigned k = 0; k < AHEAD; ++k) next[k] = exists && k < T ? gates[k * GATES * step] : 0;
    __syncthreads();

    for (unsigned first = 0; first < T; first += AHEAD)
#pragma unroll
        for (unsigned k = 0; k < AHEAD; ++k) {
            unsigned t = first + k;
            if (t == T) break;
            float sums[GATES] = {};
#pragma unroll
            for (unsigned part = 0; part < PARTS; ++part) {
                Sixteen four = reinterpret_cast<const Sixteen*>(told + t % 2 * UNITS)[part * 4 + q];
                if (part == 0 && t > 0) store();  // what was found before, while this is on its way
#pragma unroll
                for (unsigned j = 0; j < 4; ++j)
#pragma unroll
                    for (unsigned gate = 0; gate < GATES; ++gate)
                        sums[gate] += float_from_bits(four.word[j]) * weight[part][j][gate];
            }
            float a = next[k] + sum_of_gate(sums, q);
            next[k] = exists && t + AHEAD < T ? gates[AHEAD * GATES * step] : 0;
            float curve = falling(q == 3 ? 2 * fabsf(a) : -a), tangent = hyperbolic_tangent(a, curve);
            own = q == 3 ? tangent : curve;
            float i = of_quad(own, 0), f = of_quad(own, 1), o = of_quad(own, 2), g = of_quad(own, 3);
            c_t = f * c_t + i * g;
            narrow(o * hyperbolic_tangent(c_t), h_t);
            if (q == 0) told[(t + 1) % 2 * UNITS + u] = exists ? widen(h_t) : 0;
            __syncthreads();
        }
    store();
    if (exists && !kept && q == 1) *c = c_t;
}

template <typename S, typename A, int UNITS>
__global__ void __launch_bounds__(GATES* UNITS, TOGETHER) rows_backward(
    const S* Wh, long long by_row, long long by_column, const float* gates, const float* c, const float* c0,
    const void* outer, int wide, long long by_step, long long by_outer_row, long long by_unit, A* da, float* dh,
    float* dc, unsigned T, unsigned N, unsigned H) {
    constexpr unsigned PARTS = UNITS / 4, AHEAD = 3;  // of a lane's quarter, one unit each; as above
    const unsigned u = threadIdx.x / GATES, q = threadIdx.x % GATES, state = blockIdx.x * H + u;
    const bool exists = u < H;
    float* told = reinterpret_cast<float*>(shared_memory());  // da in the order 4u + gate, in two buffers

    float weight[PARTS][GATES];  // of unit 4 * part + q
#pragma unroll
    for (unsigned part = 0; part < PARTS; ++part)
#pragma unroll
        for (unsigned gate = 0; gate < GATES; ++gate) {
            unsigned from = 4 * part + q;
            weight[part][gate] =
                exists && from < H ? widen(Wh[u * by_row + (size_t(gate) * H + from) * by_column]) : 0;
        }
    const unsigned step = N * H, own_gate = 3 * blockIdx.x * H + state + q * H;
    const int size = wide ? sizeof(float) : sizeof(S);
    const char* outside =
        static_cast<const char*>(outer) + ((T - 1) * by_step + blockIdx.x * by_outer_row + u * by_unit) * size;
    by_step *= size;
    da += size_t(T - 1) * (GATES * step) + own_gate;
    float carried = exists ? dh[state] : 0, dc_t = exists ? dc[state] : 0;
    float first_c = exists ? c0[state] : 0, c_t = exists ? c[size_t(T - 1) * step + state] : 0;

    struct {
        float gate, prev_c;
        unsigned dh;  // its bits: whatever is done with what is on its way waits for it
    } next[AHEAD];
    auto prefetch = [&](unsigned k, unsigned left) {  // of steps, with this one
        bool needed = exists && left > 0;
        next[k].gate = needed ? gates[size_t(left - 1) * (GATES * step) + own_gate] : 0;
        next[k].prev_c = exists && left > 1 ? c[size_t(left - 2) * step + state] : first_c;
        next[k].dh = !needed || !outer ? 0
                     : wide            ? *reinterpret_cast<const unsigned*>(outside)
                                       : bits(*reinterpret_cast<const S*>(outside));
        outside -= by_step;
    };
    // What of a step does not wait for dh: da of a gate is the gradient of what it is multiplied into, times what it is
    // multiplied with, times its own slope.
    float to_dc, to_da, f, dh_t;
    auto prepare = [&](unsigned k) {
        float gate = next[k].gate, prev_c = next[k].prev_c, tanh_c = hyperbolic_tangent(c_t);
        float i = of_quad(gate, 0), o = of_quad(gate, 2), g = of_quad(gate, 3);
        float lower = q == 0 ? g : prev_c, upper = q == 2 ? tanh_c : i, other = q < 2 ? lower : upper;
        float slope = q == 3 ? 1 - gate * gate : gate * (1 - gate);
        to_dc = o * (1 - tanh_c * tanh_c), to_da = other * slope, f = of_quad(gate, 1);
        dh_t = wide ? float_from_bits(next[k].dh) : widen(from_bits<S>(next[k].dh)), c_t = prev_c;
    };
#pragma unroll
    for (unsigned k = 0; k < AHEAD; ++k) prefetch(k, T > k ? T - k : 0);
    prepare(0);

    for (unsigned first = 0; first < T; first += AHEAD)
#pragma unroll
        for (unsigned k = 0; k < AHEAD; ++k) {
            unsigned left = T - first - k;
            if (left == 0) break;
            dh_t += carried;
            float all_dc = dc_t + dh_t * to_dc;
            A own;
            narrow((q == 2 ? dh_t : all_dc) * to_da, own);
            dc_t = all_dc * f;
            float* rows = told + left % 2 * GATES * UNITS;
            rows[threadIdx.x] = exists ? widen(own) : 0;
            __syncthreads();
            float sums[GATES] = {};
#pragma unroll
            for (unsigned part = 0; part < PARTS; ++part) {
                Sixteen four = reinterpret_cast<const Sixteen*>(rows)[part * 4 + q];
                if (part == 0) {  // while that is on its way
                    if (exists) *da = own;
                    da -= GATES * step;
                    prefetch(k, left > AHEAD ? left - AHEAD : 0);
                }
#pragma unroll
                for (unsigned gate = 0; gate < GATES; ++gate)
                    sums[gate] += float_from_bits(four.word[gate]) * weight[part][gate];
            }
            prepare((k + 1) % AHEAD);
            carried = sum_of_quad((sums[0] + sums[1]) + (sums[2] + sums[3]));
        }
    if (exists && q == 0) dh[state] = carried, dc[state] = dc_t;
}
