"""A CUDA source compiled as C++ for this processor: a test of the very source.

What CUDA adds to C++ is put in front of it. Arguments are passed as cuLaunchKernel takes them: one address each. The
threads of a block run one after the other; where they meet (barriers, and products of a warp on tensor cores, whose
fragments are those of the PTX manual), each runs until it has to wait for the others.
"""

import ctypes
import shutil
import subprocess

COMPILER = shutil.which("g++")

BEFORE = r"""
#include <ucontext.h>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>
using std::exp;
using std::size_t;
using std::tanh;
#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(...)
struct { unsigned x, y; } blockIdx, blockDim, threadIdx;
template <typename To, typename From>
static To same_bits(From from) {
    To to;
    static_assert(sizeof to == sizeof from);
    memcpy(&to, &from, sizeof to);
    return to;
}
static float float_from_half(unsigned short half) { return same_bits<_Float16>(half); }
static unsigned short half_from_float(float v) { return same_bits<unsigned short>(_Float16(v)); }
static float float_from_bits(unsigned bits) { return same_bits<float>(bits); }
static unsigned bits_from_float(float v) { return same_bits<unsigned>(v); }

struct Thread {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[1 << 16]};
    bool ended = true;
};
static std::vector<Thread> threads(1024);
static ucontext_t scheduler;
static std::function<void()> body;
static bool moved;

static void start() {
    unsigned self = threadIdx.x;
    body();
    threads[self].ended = moved = true;
}

// All threads of a block; false if they wait for each other in vain.
static bool run_block(unsigned count) {
    for (unsigned k = 0; k < count; ++k) {
        Thread& thread = threads[k];
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = thread.stack.get();
        thread.context.uc_stack.ss_size = 1 << 16;
        thread.context.uc_link = &scheduler;
        thread.ended = false;
        makecontext(&thread.context, start, 0);
    }
    for (unsigned left = count; left;) {
        left = 0, moved = false;
        for (unsigned k = 0; k < count; ++k) {
            if (threads[k].ended) continue;
            threadIdx.x = k;
            swapcontext(&scheduler, &threads[k].context);
            left += !threads[k].ended;
        }
        if (!moved) return false;
    }
    return true;
}

struct Meeting {
    unsigned here = 0, held = 0;
    void join(unsigned count) {
        unsigned mine = held, self = threadIdx.x;
        if (++here == count) here = 0, ++held, moved = true;
        while (held == mine) swapcontext(&threads[self].context, &scheduler);
        threadIdx.x = self;
    }
};
static Meeting of_block, of_warp[32];
static void __syncthreads() { of_block.join(blockDim.x); }

// What the lanes of each warp bring to a product.
static unsigned brought_a[32][32][4], brought_b[32][32][2];

template <typename Fragment, typename Multiply>
static void with_all_lanes(float (&d)[4], const Fragment& a, unsigned b0, unsigned b1, Multiply multiply) {
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    memcpy(brought_a[warp][lane], a.word, sizeof a.word);
    brought_b[warp][lane][0] = b0, brought_b[warp][lane][1] = b1;
    of_warp[warp].join(32);
    for (unsigned j = 0; j < 4; ++j) d[j] = multiply(d[j], warp, lane / 4 + j / 2 * 8, lane % 4 * 2 + j % 2);
    of_warp[warp].join(32);
}

// m16n8k16: a lane has pairs of neighbours in k.
template <typename Fragment, typename Widen>
static void mma_16(float (&d)[4], const Fragment& a, unsigned b0, unsigned b1, Widen widen) {
    with_all_lanes(d, a, b0, b1, [widen](float sum, unsigned warp, unsigned row, unsigned column) {
        for (unsigned k = 0; k < 16; ++k) {
            unsigned in = k % 8 / 2, up = k % 2 * 16;
            unsigned a = brought_a[warp][row % 8 * 4 + in][row / 8 + k / 8 * 2];
            unsigned b = brought_b[warp][column * 4 + in][k / 8];
            sum += widen(a >> up & 0xffff) * widen(b >> up & 0xffff);
        }
        return sum;
    });
}
template <typename Fragment>
static void mma_float16(float (&d)[4], const Fragment& a, unsigned b0, unsigned b1) {
    mma_16(d, a, b0, b1, [](unsigned bits) { return float_from_half(bits); });
}
template <typename Fragment>
static void mma_bfloat16(float (&d)[4], const Fragment& a, unsigned b0, unsigned b1) {
    mma_16(d, a, b0, b1, [](unsigned bits) { return float_from_bits(bits << 16); });
}
// m16n8k8; the lower bits of a float are not looked at.
template <typename Fragment>
static void mma_tf32(float (&d)[4], const Fragment& a, unsigned b0, unsigned b1) {
    with_all_lanes(d, a, b0, b1, [](float sum, unsigned warp, unsigned row, unsigned column) {
        for (unsigned k = 0; k < 8; ++k) {
            unsigned a = brought_a[warp][row % 8 * 4 + k % 4][row / 8 + k / 4 * 2];
            unsigned b = brought_b[warp][column * 4 + k % 4][k / 4];
            sum += float_from_bits(a & 0xffffe000) * float_from_bits(b & 0xffffe000);
        }
        return sum;
    });
}
static unsigned tf32_from_float(float v) {
    return v != v ? 0x7fffffff : (bits_from_float(v) + 0x1000) & 0xffffe000;
}
"""

AFTER = r"""
template <typename... Types, std::size_t... Places>
static bool run(
    void (*kernel)(Types...), const unsigned* grid, unsigned count, bool meets, void** given,
    std::index_sequence<Places...>) {
    body = [=] { kernel(*static_cast<Types*>(given[Places])...); };
    blockDim.x = count;
    for (blockIdx.y = 0; blockIdx.y < grid[1]; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < grid[0]; ++blockIdx.x) {
            of_block = Meeting();
            for (Meeting& meeting : of_warp) meeting = Meeting();
            if (meets) {
                if (!run_block(count)) return false;
            } else {
                for (threadIdx.x = 0; threadIdx.x < count; ++threadIdx.x) body();
            }
        }
    return true;
}
template <typename... Types>
static bool launch(void (*kernel)(Types...), const unsigned* grid, unsigned count, bool meets, void** given) {
    return run(kernel, grid, count, meets, given, std::index_sequence_for<Types...>());
}
template <typename... Types>
static int describe(void (*)(Types...), int* sizes) {
    int found[] = {int(sizeof(Types))...};
    memcpy(sizes, found, sizeof found);
    return sizeof...(Types);
}
"""

ENTRY = """
extern "C" int launch_{k}(const unsigned* grid, unsigned count, int meets, void** given) {{
    return launch(&{name}, grid, count, meets, given);
}}
extern "C" int describe_{k}(int* sizes) {{ return describe(&{name}, sizes); }}
"""


class Kernels:
    """The kernels of a source by their C++ names."""

    def __init__(self, source, names, folder):
        entries = "".join(ENTRY.format(k=k, name=name) for k, name in enumerate(names))
        file, library = folder / "kernels.cpp", folder / "kernels.so"
        file.write_text(BEFORE + source + AFTER + entries, encoding="utf-8")
        command = [COMPILER, "-std=c++17", "-O2", "-Wall", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-function"]
        command += ["-shared", "-fPIC"]
        subprocess.run([*command, str(file), "-o", str(library)], check=True)
        self.library, self.names = ctypes.PyDLL(str(library)), list(names)  # one launch at a time

    def sizes(self, name):
        """Bytes of each parameter."""
        found = (ctypes.c_int * 32)()
        count = getattr(self.library, f"describe_{self.names.index(name)}")(found)
        return list(found[:count])

    def launch(self, name, grid, threads, values, meets=True):
        """Run a kernel on values that are ctypes objects. If its threads never meet, it takes less time to say so."""
        given = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        sides = (ctypes.c_uint * 2)(*grid, *([1] * (2 - len(grid))))
        met = getattr(self.library, f"launch_{self.names.index(name)}")(sides, threads, meets, given)
        assert met, f"{name}: threads of a block wait for others in vain"
