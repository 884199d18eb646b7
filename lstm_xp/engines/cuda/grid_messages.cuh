// What the blocks of grid.cu work on, and how they tell each other what they have computed. After mma.cuh.
//
// A message says itself that it is there. Until a word of it is written, all of its bits are set, which no word has that
// is told; who reads looks at the words until none is missing. So nobody has to wait until what it wrote has arrived.
//
// Messages are numbered. A block tells message m when it has read all of m - 1, and with that it knows that all others
// have read m - 2. So every so often it makes those places MISSING again that come next but are not needed soon, those
// of messages up to m - 2; then all of its threads have a fence. Before anybody reads message m + EVERY, the first one
// in such a place, it has read m + 1, told after that fence, and had a fence of its own: it cannot find there what was
// there before.

namespace grid {

const unsigned COLUMNS = 16, WARPS = 8, ALL = 0xffffffff;
const unsigned MISSING = 0xffffffff, NAN_BITS = 0x7fffffff;  // the latter also in half types, twice
const unsigned EVERY = 4, PLACES = 2 * EVERY + 1;            // the former at least 2

struct Work {
    long long T, N, H;
    long long slices, replicas, chains, tiles;
    long long pitch;     // values of a message's row, of one gate: H, and what fills up a chunk
    long long patience;  // looks at a message
    const void* Wh;
    long long Wh_by_row, Wh_by_column;
    unsigned* alarm;   // MISSING, until it is given
    unsigned* report;  // zero; on the host
    void* messages;    // (PLACES, rows, pitch) or backward (PLACES, rows, 4, pitch), all words MISSING
    unsigned* sums;    // backward: (PLACES, rows, units, 4), of a team's four blocks, all words MISSING
    float* gates;      // (T, N, 4H); forward: in place of the pre-activations
    float* c;          // (T, N, H), or (N, H) if `kept` is 0
    const float* c0;
    long long kept;
    void* h;                // forward: (T, N, H); backward: the gradient of h from outside, or null for zeros
    const void* h0;         // forward
    void* da;               // backward: (T, N, 4H), as rows of the product are stored
    float *dh, *dc;         // backward: (N, H), dh_n and dc_n on the way in, dh0 and dc0 at the end
    long long by_step, by_row, by_unit, is_float;  // backward: strides of h, and whether it is float whatever S is
};

#ifdef __CUDACC__
// Past this processor's own cache, which may hold what was there before.
__device__ inline void look(Sixteen& v, const void* place, bool wanted) {
    asm volatile(
        "{\n\t.reg .pred wanted;\n\tsetp.ne.u32 wanted, %5, 0;\n\t"
        "@wanted ld.relaxed.gpu.global.v4.b32 {%0, %1, %2, %3}, [%4];\n\t}"
        : "+r"(v.word[0]), "+r"(v.word[1]), "+r"(v.word[2]), "+r"(v.word[3])
        : "l"(place), "r"(unsigned(wanted)));
}

__device__ inline unsigned look_at(const unsigned* place) {
    unsigned word;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(word) : "l"(place));
    return word;
}

__device__ inline void put(void* place, unsigned word) {
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(place), "r"(word) : "memory");
}

__device__ inline void fence() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }

__device__ inline void relax() {}  // a look takes long enough

// Memory that will be needed, on its way to the level-2 cache.
__device__ inline void expect(const void* place) { asm volatile("prefetch.global.L2 [%0];" ::"l"(place)); }
#endif

__device__ inline void tell(void* place, unsigned word) { put(place, word == MISSING ? NAN_BITS : word); }

// Bytes that are still to be read, or zeros.
__device__ inline Sixteen awaited(bool there) {
    unsigned word = there ? MISSING : 0;
    return {{word, word, word, word}};
}

__device__ inline bool missing(const Sixteen& v) {
    return v.word[0] == MISSING || v.word[1] == MISSING || v.word[2] == MISSING || v.word[3] == MISSING;
}

// A warp looks until nothing is missing: `look_again` says whether something is. If that takes too long, or the alarm is
// given, it is time to leave.
template <typename Look>
__device__ inline bool heard(const Work& work, Look look_again) {
    for (unsigned looks = 0; __any_sync(ALL, look_again()); ++looks) {
        bool late = looks == work.patience || (looks % 32 == 31 && look_at(work.alarm) != MISSING);
        if (__any_sync(ALL, late)) return false;
        relax();
    }
    return true;
}

// After message m: `forget` makes MISSING what this thread has told or alone has read in a place.
template <typename Forget>
__device__ inline void renew(unsigned m, Forget forget) {
    if (m % EVERY) return;
    for (unsigned i = 0; i < EVERY; ++i) forget((m + EVERY + i) % PLACES);
    fence();
}

}  // namespace grid
