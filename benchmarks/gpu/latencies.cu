// What any kernel that keeps an LSTM's weights on the processors pays per time step: barriers and messages, nothing else.
// No header is included: NVRTC has none of its own. Whoever waits gives up after so many looks, and says so.

const int PATIENCE = 1 << 22;

__global__ void nothing() {}

// One barrier over all blocks, as a counter in global memory. All blocks must be resident: at most one per processor.
__global__ void grid_barrier(unsigned* counter, unsigned* lost, int steps) {
    __shared__ bool late;
    if (threadIdx.x == 0) late = false;
    for (int step = 1; step <= steps; ++step) {
        __syncthreads();
        if (threadIdx.x == 0) {
            asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
            unsigned target = step * gridDim.x, seen = 0;
            for (int look = 0; look < PATIENCE && seen < target; ++look)
                asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
            late = seen < target;
        }
        __syncthreads();
        if (late) break;
    }
    if (threadIdx.x == 0 && late) *lost = 1;
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900  // clusters

__device__ inline void meet() {
    asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

__device__ inline unsigned shared_address(const void* place) {
    return unsigned(__cvta_generic_to_shared(place));
}

// The same place in the shared memory of another block of the cluster.
__device__ inline unsigned of_block(unsigned address, unsigned rank) {
    unsigned there;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
    return there;
}

template <int C>
__global__ void __cluster_dims__(C, 1, 1) cluster_barrier(int steps) {
    for (int step = 0; step < steps; ++step) meet();
}

// Each block sends a word to each of the C blocks, itself included, and waits for the C words that are sent to it: how
// h would travel. One warp per block. Two sets of places, in turn: who is a step ahead writes into the other one.
template <int C>
__global__ void __cluster_dims__(C, 1, 1) cluster_push(unsigned* lost, int steps) {
    __shared__ alignas(8) unsigned long long arrived[2];
    __shared__ unsigned words[2][C];
    unsigned lane = threadIdx.x, rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    if (lane == 0) {
        for (int half = 0; half < 2; ++half)
            asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"(shared_address(&arrived[half])) : "memory");
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncwarp();
    meet();
    bool wrong = false;
    for (int step = 0; step < steps && !wrong; ++step) {
        unsigned half = step & 1, parity = (step >> 1) & 1, barrier = shared_address(&arrived[half]), done = 0;
        if (lane == 0)
            asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier), "r"(4 * C) : "memory");
        if (lane < C)
            asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%0], %1, [%2];" ::"r"(
                             of_block(shared_address(&words[half][rank]), lane)),
                         "r"(step * C + rank), "r"(of_block(barrier, lane))
                         : "memory");
        for (int look = 0; look < PATIENCE && !done; ++look)
            asm volatile(
                "{\n\t.reg .pred ready;\n\t"
                "mbarrier.test_wait.parity.acquire.cluster.shared::cta.b64 ready, [%1], %2;\n\t"
                "selp.u32 %0, 1, 0, ready;\n\t}"
                : "=r"(done)
                : "r"(barrier), "r"(parity)
                : "memory");
        wrong = !done || (lane < C && *(volatile unsigned*)&words[half][lane] != step * C + lane);
        wrong = __any_sync(0xffffffffu, wrong);
    }
    if (wrong && lane == 0) *lost = 1;
    __syncwarp();
    meet();  // nobody leaves while words are still on their way to it
}

#endif
