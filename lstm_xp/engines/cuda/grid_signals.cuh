// What the blocks of grid.cu work on, and how they tell each other that they have written. After mma.cuh.

namespace grid {

const unsigned COLUMNS = 16, WARPS = 8;
const unsigned LINE = 32;  // words: each signal has a line of the level-2 cache to itself

struct Work {
    long long T, N, H;
    long long slices, replicas, chains, tiles;
    long long pitch;     // values of a message's row, of one gate: H and zeros
    long long patience;  // looks at a signal
    const void* Wh;
    long long Wh_by_row, Wh_by_column;
    unsigned *signals, *report;  // zeros; the report is on the host
    void* messages;              // (2, rows, pitch) or backward (2, rows, 4, pitch), zeros
    float* sums;                 // backward: (4, rows, units), of a team's four blocks
    float* gates;                // (T, N, 4H); forward: in place of the pre-activations
    float* c;                    // (T, N, H), or (N, H) if `kept` is 0
    const float* c0;
    long long kept;
    void* h;                // forward: (T, N, H); backward: the gradient of h from outside, or null for zeros
    const void* h0;         // forward
    float *da, *dh, *dc;    // backward: (T, N, 4H); (N, H), dh_n and dc_n on the way in, dh0 and dc0 at the end
    long long by_step, by_row, by_unit, is_float;  // backward: strides of h, and whether it is float whatever S is
};

#ifdef __CUDACC__
// What another block has written: past this processor's own cache, which may hold what was there before.
__device__ inline void exchanged(Sixteen& v, const void* place, bool there) {
    asm volatile(
        "{\n\t.reg .pred there;\n\tsetp.ne.u32 there, %5, 0;\n\t"
        "mov.b32 %0, 0;\n\tmov.b32 %1, 0;\n\tmov.b32 %2, 0;\n\tmov.b32 %3, 0;\n\t"
        "@there ld.relaxed.gpu.global.v4.b32 {%0, %1, %2, %3}, [%4];\n\t}"
        : "=&r"(v.word[0]), "=&r"(v.word[1]), "=&r"(v.word[2]), "=&r"(v.word[3])
        : "l"(place), "r"(unsigned(there)));
}

__device__ inline void exchanged(float& v, const void* place, bool) {
    asm volatile("ld.relaxed.gpu.global.f32 %0, [%1];" : "=f"(v) : "l"(place));
}

__device__ inline unsigned look_at(const unsigned* signal) {
    unsigned count;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(count) : "l"(signal) : "memory");
    return count;
}

__device__ inline void add_one(unsigned* signal) {
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(signal) : "memory");
}

__device__ inline void relax() {}  // a look takes long enough

// Memory that will be needed, on its way to the level-2 cache.
__device__ inline void expect(const void* place) { asm volatile("prefetch.global.L2 [%0];" ::"l"(place)); }
#endif

__device__ inline unsigned* signal_of(const Work& work, unsigned number) { return work.signals + LINE * number; }
const unsigned ALARM = 0, FIRST_CHAIN = 1;  // numbers of signals; those of the teams follow the chains'

// All of the block have written: one more at the signal.
__device__ inline void tell(unsigned* signal) {
    __syncthreads();
    if (threadIdx.x == 0) add_one(signal);
}

// Whether a signal has come to a count, which may have gone once around; if not, it is time to leave.
__device__ inline bool heard(const Work& work, const unsigned* signal, unsigned count) {
    bool late = false;
    if (threadIdx.x == 0)
        for (long long looks = 0; !late && int(look_at(signal) - count) < 0; ++looks) {
            late = looks == work.patience || (looks % 32 == 31 && look_at(signal_of(work, ALARM)));
            relax();
        }
    return !__syncthreads_or(late);
}

}  // namespace grid
