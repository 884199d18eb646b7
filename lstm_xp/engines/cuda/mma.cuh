// Matrix products of a warp, on tensor cores where there are any for them: m16n8k16 or m16n8k8. After cell.cuh.

const unsigned ROWS = 8, LANES = 32;

#ifdef __CUDACC__
__device__ inline unsigned tf32_from_float(float v) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(v));
    return bits;
}

#define MMA(name, shape)                                                                                           \
    __device__ inline void name(float (&d)[4], const Sixteen& a, unsigned b0, unsigned b1) {                       \
        asm("mma.sync.aligned." shape " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"           \
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                       \
            : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]), "r"(b0), "r"(b1));                   \
    }
MMA(mma_float16, "m16n8k16.row.col.f32.f16.f16.f32")
MMA(mma_bfloat16, "m16n8k16.row.col.f32.bf16.bf16.f32")
MMA(mma_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32")
#endif

// A product says what a row of its second factor is stored as, how a value of it and a weight (one of its words or half
// words) are rounded for it, and how two fragments are multiplied.
struct Half {
    typedef float16 Row;
    __device__ static unsigned weight(float16 v) { return v.bits; }
    __device__ static float16 row(float16 v) { return v; }
    __device__ static void mma(float (&d)[4], const Sixteen& a, unsigned b0, unsigned b1) { mma_float16(d, a, b0, b1); }
};

struct Bfloat {
    typedef bfloat16 Row;
    __device__ static unsigned weight(bfloat16 v) { return v.bits; }
    __device__ static bfloat16 row(bfloat16 v) { return v; }
    __device__ static void mma(float (&d)[4], const Sixteen& a, unsigned b0, unsigned b1) {
        mma_bfloat16(d, a, b0, b1);
    }
};

struct Tf32 {
    typedef float Row;
    template <typename S>
    __device__ static unsigned weight(S v) {
        return tf32_from_float(widen(v));
    }
    __device__ static float row(float v) { return float_from_bits(tf32_from_float(v)); }
    __device__ static void mma(float (&d)[4], const Sixteen& a, unsigned b0, unsigned b1) { mma_tf32(d, a, b0, b1); }
};

struct Ieee {
    typedef float Row;
    __device__ static unsigned weight(float v) { return bits_from_float(v); }
    __device__ static float row(float v) { return v; }
};

// Values of a row that 16 bytes hold, and that a chunk of the depth does.
template <typename P>
__device__ constexpr unsigned per_lane() {
    return 16 / sizeof(typename P::Row);
}

template <typename P>
__device__ constexpr unsigned per_chunk() {
    return 4 * per_lane<P>();
}
