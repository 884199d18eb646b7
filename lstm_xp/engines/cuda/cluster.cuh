// What blocks of a cluster say to each other: messages into each other's shared memory, and barriers that count them.
// Compute capability 9.0 and later. After cell.cuh and mma.cuh.

// In shared memory. A phase ends when one thread of the block has announced it, and all bytes that were announced have
// come, in any order.
struct Barrier {
    unsigned long long state;
};

#ifdef __CUDACC__
__device__ inline unsigned in_shared(const void* place) { return unsigned(__cvta_generic_to_shared(place)); }

// Of kernels that are launched programmatically, one after the other: the next one may begin while this one still runs,
// and waits for all that the one before has done. For others they mean nothing.
__device__ inline void let_next_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ inline void await_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Another block of the cluster: where its shared memory is.
struct Remote {
    unsigned begin;
    __device__ unsigned of(const void* place) const { return begin + in_shared(place) - in_shared(shared_memory()); }
};

__device__ inline Remote remote(unsigned rank) {
    Remote there;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there.begin) : "r"(in_shared(shared_memory())), "r"(rank));
    return there;
}

__device__ inline void prepare(Barrier* barrier) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(in_shared(barrier)) : "memory");
}

// All threads of all blocks begin, and later wait until all have: then others see barriers that were prepared before.
__device__ inline void cluster_begin() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
__device__ inline void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

// All threads of all blocks: what each did before, barriers that it prepared too, the others see after.
__device__ inline void cluster_sync() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    cluster_wait();
}

__device__ inline void announce(Barrier* barrier, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(in_shared(barrier)), "r"(bytes)
                 : "memory");
}

// Until the phase of this parity has ended: phases are counted from 0.
__device__ inline void await(Barrier* barrier, unsigned parity) {
    asm volatile(
        "{\n"
        ".reg .pred ended;\n"
        "again:\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 ended, [%0], %1;\n"
        "@!ended bra again;\n"
        "}\n" ::"r"(in_shared(barrier)),
        "r"(parity)
        : "memory");
}

// Bytes to the same place in the memory of another block, counted by its barrier.
__device__ inline void send(Sixteen v, const void* place, const Barrier* barrier, Remote to) {
    asm volatile(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
            to.of(place)),
        "r"(v.word[0]), "r"(v.word[1]), "r"(v.word[2]), "r"(v.word[3]), "r"(to.of(barrier))
        : "memory");
}
#endif

// Messages of a fixed size to every block of the cluster, from all of its blocks, this one too: number k into the
// buffer k % 2. A block that has number k has them from all blocks; each of them sends its part of number k after it
// has read number k - 1. So nobody reads number k - 1 any more when number k + 1 is sent into its place: two buffers
// do. And a block that awaits each number that is sent may end: nothing comes after.
struct Mail {
    Barrier* barriers;  // two
    unsigned bytes;     // of one number, from all blocks together

    // By one thread, before a cluster_sync, and after it: bytes may come before they are announced.
    __device__ void open() const {
        for (unsigned k = 0; k < 2; ++k) prepare(barriers + k);
    }
    __device__ void expect() const {
        for (unsigned k = 0; k < 2; ++k) announce(barriers + k, bytes);
    }
    __device__ Barrier* of(unsigned k) const { return barriers + k % 2; }

    // By all threads. Whoever is late still finds this phase ended, and not the next one, too: that ends with number
    // k + 2, for which this block has to send its own part, and all its warps have been here before that.
    __device__ void receive(unsigned k) const {
        await(of(k), k / 2 % 2);
        if (threadIdx.x == 0) announce(of(k), bytes);
    }
};
