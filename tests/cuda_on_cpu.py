"""A CUDA source compiled as C++ for this processor: a test of the very source.

What CUDA adds to C++ is put in front of it. Arguments are passed as cuLaunchKernel takes them: one address each. The
threads of a block run one after the other; where they meet (barriers, and products of a warp on tensor cores, whose
fragments are those of the PTX manual), each runs until it has to wait for the others.

Blocks run one after the other, too, or so many at once: these may wait for each other. They find their shared memory by
`shared_memory()` alone; what is declared `__shared__` is one variable for all blocks. With a seed, who runs next is
drawn, and some warps and blocks are held back for as long as others can go on. If nobody can, that is an error.
"""

import ctypes
import re
import shutil
import subprocess
from functools import cached_property

COMPILER = shutil.which("g++")

BEFORE = r"""
#include <setjmp.h>
#include <ucontext.h>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <utility>
#include <vector>
using std::exp;
using std::size_t;
using std::tanh;
#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(...)
#define __cluster_dims__(...)
struct Index {
    unsigned x, y;
} gridDim, blockIdx, blockDim, threadIdx;
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
static float power_of_two(float v) { return std::exp2(v); }
static float reciprocal(float v) { return 1 / v; }

struct Block;
struct Thread {
    ucontext_t context;  // where it starts
    jmp_buf place;       // where it goes on
    std::unique_ptr<char[]> stack;
    Block* block;
    unsigned index;
    bool begun, ended;
    const unsigned* awaited;  // at a meeting: how many were held, and
    unsigned before;          // how many before this one
    bool waits() const { return awaited && *awaited == before; }
};
static std::function<void()> body;
static Thread* current;
static jmp_buf scheduler;
static bool moved;
static const char* trouble;

// Give way to the others.
static void pass() {
    if (!_setjmp(current->place)) _longjmp(scheduler, 1);
}

// Whatever has to wait does so here, for something that others do.
template <typename Condition>
static void wait_until(Condition holds) {
    while (!holds()) pass();
    moved = true;
}

struct Meeting {
    unsigned here = 0, held = 0;
    void join(unsigned count) {
        unsigned mine = held;
        if (++here == count) here = 0, ++held;
        current->awaited = &held, current->before = mine;
        wait_until([&] { return held != mine; });
        current->awaited = nullptr;
    }
};

// A block that runs, and what the lanes of each of its warps bring to a product.
struct Block {
    Index index;
    Meeting whole, warp[32];
    unsigned brought_a[32][32][4], brought_b[32][32][2], any = 0, left;
    float brought[32][32];
    std::vector<char> memory;
};
static std::vector<Block> blocks;  // that run at once
static std::vector<Thread> threads;
static void __syncthreads() { current->block->whole.join(blockDim.x); }
static void __syncwarp() { current->block->warp[threadIdx.x / 32].join(32); }
const unsigned GUARD = 64;  // behind it
static char* memory_of(Block& block) { return block.memory.data() + 16 - size_t(block.memory.data()) % 16; }
static char* shared_memory() { return memory_of(*current->block); }

template <typename V>
static V __shfl_xor_sync(unsigned, V v, unsigned other) {
    float(&brought)[32] = current->block->brought[threadIdx.x / 32];
    brought[threadIdx.x % 32] = same_bits<float>(v);
    __syncwarp();
    v = same_bits<V>(brought[threadIdx.x % 32 ^ other]);
    __syncwarp();
    return v;
}
template <typename V>
static V __shfl_sync(unsigned, V v, unsigned from, unsigned width) {
    float(&brought)[32] = current->block->brought[threadIdx.x / 32];
    brought[threadIdx.x % 32] = same_bits<float>(v);
    __syncwarp();
    v = same_bits<V>(brought[threadIdx.x % 32 / width * width + from % width]);
    __syncwarp();
    return v;
}
static bool __any_sync(unsigned, bool said) {
    for (unsigned apart = 1; apart < 32; apart *= 2) said |= __shfl_xor_sync(0, unsigned(said), apart) != 0;
    return said;
}

// What cluster.cuh says in PTX: the blocks that run at once are a cluster. Messages come late, and in any order.
struct Counted {
    unsigned ended, announced;
    long bytes;
    void count(long more) {
        bytes += more;
        if (announced && !bytes) announced = 0, ++ended;
    }
};
struct Message {
    char bytes[16];
    unsigned size, rank;
    char* place;
    void* barrier;
};
static std::map<void*, Counted> barriers;
static std::vector<Message> on_their_way;
static Meeting cluster;
static void cluster_sync() { cluster.join(blocks.size() * blockDim.x); }
static void cluster_begin() {}
static void let_next_begin() {}
static void await_previous() {}
static void cluster_wait() { cluster_sync(); }
static void prepare(void* barrier) { barriers[barrier] = {}; }
static void announce(void* barrier, unsigned bytes) {
    Counted& counted = barriers.at(barrier);
    if (counted.announced++) trouble = "a phase is announced twice";
    counted.count(bytes);
}
static void await(void* barrier, unsigned parity) {
    wait_until([&] { return barriers.at(barrier).ended % 2 != parity; });
}
struct Remote {
    unsigned rank;
};
static Remote remote(unsigned rank) { return {rank}; }
static void send_bytes(const void* v, unsigned size, const void* place, const void* barrier, Remote to) {
    long there = memory_of(blocks.at(to.rank)) - shared_memory();
    char *its_place = (char*)place + there, *its_barrier = (char*)barrier + there;
    Message message = {{}, size, to.rank, its_place, its_barrier};
    memcpy(message.bytes, v, size);
    on_their_way.push_back(message);
}
template <typename V>
static void send(const V& v, const void* place, const void* barrier, Remote to) {
    send_bytes(&v, sizeof v, place, barrier, to);
}
static void deliver(const Message& message) {
    Block& to = blocks[message.rank];
    size_t place = message.place - memory_of(to);
    if (place + message.size > to.memory.size() - 16 - GUARD || place % message.size)
        trouble = "a message for no place in shared memory";
    else if (!to.left) trouble = "a message for a block that has ended";
    else if (!barriers.count(message.barrier)) trouble = "a message for a barrier that is not prepared";
    else {
        memcpy(message.place, message.bytes, message.size);
        barriers[message.barrier].count(-long(message.size));
        moved = true;
    }
}
template <typename Random>
static void deliver_some(Random& random, bool all) {
    std::vector<Message> messages, later;
    messages.swap(on_their_way);
    if (!all) std::shuffle(messages.begin(), messages.end(), random);
    for (const Message& message : messages) {
        if (all || random() % 2) deliver(message);
        else later.push_back(message);
    }
    on_their_way.insert(on_their_way.end(), later.begin(), later.end());
}

static void start() {
    body();
    current->ended = moved = true;
    --current->block->left;
    _longjmp(scheduler, 1);
}

// A thread, until it waits for others.
static void __attribute__((noinline)) resume(Thread& thread) {
    current = &thread, blockIdx = thread.block->index, threadIdx.x = thread.index;
    if (_setjmp(scheduler)) return;
    if (thread.begun) _longjmp(thread.place, 1);
    thread.begun = true;
    setcontext(&thread.context);
}

// Once all threads, but those of warps that are held back, and those that would only find others missing; how many are
// left.
static size_t sweep(const std::vector<Thread*>& order, const std::vector<bool>& held_back) {
    size_t left = 0;
    for (Thread* thread : order) {
        if (thread->ended) continue;
        ++left;
        if (!held_back[(thread - threads.data()) / 32] && !thread->waits()) resume(*thread);
    }
    return left;
}

// All threads of the blocks; false if they wait for each other in vain.
static bool run_together(unsigned count, unsigned seed) {
    std::minstd_rand random(seed);
    unsigned warps = (count + 31) / 32;
    threads.resize(std::max(threads.size(), size_t(blocks.size() * warps * 32)));  // whole warps
    std::vector<std::vector<Thread*>> of_warps;
    for (Block& block : blocks) {
        block.left = count;
        for (unsigned k = 0; k < count; ++k) {
            Thread& thread = threads[(&block - blocks.data()) * warps * 32 + k];
            if (!thread.stack) thread.stack.reset(new char[1 << 16]);
            getcontext(&thread.context);
            thread.context.uc_stack.ss_sp = thread.stack.get();
            thread.context.uc_stack.ss_size = 1 << 16;
            thread.block = &block, thread.index = k, thread.begun = thread.ended = false;
            thread.awaited = nullptr;
            makecontext(&thread.context, start, 0);
            if (k % 32 == 0) of_warps.emplace_back();
            of_warps.back().push_back(&thread);
        }
    }
    std::vector<bool> nobody(of_warps.size()), held_back = nobody;
    for (unsigned turn = 0; !trouble; ++turn) {
        if (seed && (turn == 0 || random() % 32 == 0))
            for (size_t k = 0, whole = 0; k < held_back.size(); ++k) {
                if (k % warps == 0) whole = random() % 2;
                held_back[k] = whole || random() % 4 == 0;
            }
        if (seed) std::shuffle(of_warps.begin(), of_warps.end(), random);
        std::vector<Thread*> order;
        for (auto& warp : of_warps) order.insert(order.end(), warp.begin(), warp.end());
        moved = false;
        if (!sweep(order, held_back)) {
            if (!on_their_way.empty()) trouble = "a message for a block that has ended";
            return !trouble;
        }
        deliver_some(random, !seed);
        for (unsigned again = 0; !moved; ++again) {
            if (again == 3) return false;
            sweep(order, held_back = nobody);
            deliver_some(random, true);
        }
    }
    return false;
}

template <typename Fragment, typename Multiply>
static void with_all_lanes(float (&d)[4], const Fragment& a, unsigned b0, unsigned b1, Multiply multiply) {
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    memcpy(current->block->brought_a[warp][lane], a.word, sizeof a.word);
    current->block->brought_b[warp][lane][0] = b0, current->block->brought_b[warp][lane][1] = b1;
    __syncwarp();
    for (unsigned j = 0; j < 4; ++j)
        d[j] = multiply(
            d[j], current->block->brought_a[warp], current->block->brought_b[warp], lane / 4 + j / 2 * 8,
            lane % 4 * 2 + j % 2);
    __syncwarp();
}

// m16n8k16: a lane has pairs of neighbours in k.
template <typename Fragment, typename Widen>
static void mma_16(float (&d)[4], const Fragment& a, unsigned b0, unsigned b1, Widen widen) {
    with_all_lanes(d, a, b0, b1, [widen](float sum, auto& all_a, auto& all_b, unsigned row, unsigned column) {
        for (unsigned k = 0; k < 16; ++k) {
            unsigned in = k % 8 / 2, up = k % 2 * 16;
            unsigned a = all_a[row % 8 * 4 + in][row / 8 + k / 8 * 2];
            unsigned b = all_b[column * 4 + in][k / 8];
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
// m16n8k8; the lower bits of a float are not looked at: whoever has not rounded it gets one that is cut off.
static float tf32(unsigned bits) {
    float v = float_from_bits(bits);
    if (v == v && bits & 0x1fff) trouble = "an operand is not rounded to TF32";
    return float_from_bits(bits & 0xffffe000);
}
template <typename Fragment>
static void mma_tf32(float (&d)[4], const Fragment& a, unsigned b0, unsigned b1) {
    with_all_lanes(d, a, b0, b1, [](float sum, auto& all_a, auto& all_b, unsigned row, unsigned column) {
        for (unsigned k = 0; k < 8; ++k) {
            unsigned a = all_a[row % 8 * 4 + k % 4][row / 8 + k / 4 * 2];
            unsigned b = all_b[column * 4 + k % 4][k / 4];
            sum += tf32(a) * tf32(b);
        }
        return sum;
    });
}
static unsigned tf32_from_float(float v) {
    return v != v ? 0x7fffffff : (bits_from_float(v) + 0x1000) & 0xffffe000;
}

// Whether any thread of the block says so.
static int __syncthreads_or(int said) {
    unsigned& any = current->block->any;
    any |= said != 0;
    __syncthreads();
    int found = any;
    __syncthreads();
    any = 0;
    __syncthreads();
    return found;
}

// Global memory in which blocks wait for each other's words; who finds one missing looks again.
template <typename V>
static void look(V& v, const void* place, bool wanted) {
    if (wanted) memcpy(&v, place, sizeof v);
}
static unsigned look_at(const unsigned* place) { return *place; }
static void put(void* place, unsigned word) { memcpy(place, &word, sizeof word); }
static void fence() {}
static void relax() { moved = true, pass(); }
static void expect(const void*) {}
"""

AFTER = r"""
struct How {
    unsigned columns, rows, count, meets, together, shared, seed;  // as `Kernels.launch` takes them
};
template <typename... Types, std::size_t... Places>
static const char* run(void (*kernel)(Types...), How how, void** given, std::index_sequence<Places...>) {
    body = [=] { kernel(*static_cast<Types*>(given[Places])...); };
    gridDim = {how.columns, how.rows}, blockDim = {how.count, 1}, trouble = nullptr;
    if (!how.meets) {
        for (blockIdx.y = 0; blockIdx.y < how.rows; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < how.columns; ++blockIdx.x)
                for (threadIdx.x = 0; threadIdx.x < how.count; ++threadIdx.x) body();
        return nullptr;
    }
    for (unsigned first = 0; first < how.columns * how.rows && !trouble; first += how.together) {
        blocks.assign(how.together, Block());
        barriers.clear(), on_their_way.clear(), cluster = Meeting();
        for (unsigned k = 0; k < how.together; ++k) {
            blocks[k].index = {(first + k) % how.columns, (first + k) / how.columns};
            blocks[k].memory.assign(how.shared + 16 + GUARD, char(0xff));
        }
        if (!run_together(how.count, how.seed) && !trouble) trouble = "threads wait for others in vain";
        for (Block& block : blocks)
            for (unsigned k = 0; k < GUARD; ++k)
                if (memory_of(block)[how.shared + k] != char(0xff)) trouble = "written behind a block's shared memory";
    }
    return trouble;
}
template <typename... Types>
static const char* launch(void (*kernel)(Types...), const How* how, void** given) {
    return run(kernel, *how, given, std::index_sequence_for<Types...>());
}
template <typename... Types>
static int describe(void (*)(Types...), int* sizes) {
    int found[] = {int(sizeof(Types))...};
    memcpy(sizes, found, sizeof found);
    return sizeof...(Types);
}
"""

ENTRY = """
extern "C" const char* launch_{k}(const How* how, void** given) {{ return launch(&{name}, how, given); }}
extern "C" int describe_{k}(int* sizes) {{ return describe(&{name}, sizes); }}
"""


def blocks_at_once(expression, blocks):
    """Of a launch of an engine's kernel, by its C++ name: how many wait for each other, 0 if not even threads do."""
    name, _, types = expression.rstrip(">").partition("<")
    types = types.split(", ")
    if name.startswith("grid::"):
        return blocks
    if name.startswith("cluster_"):
        return int(types[3 if name == "cluster_backward" else 2])
    if name.endswith("_step"):
        return int(types[-1])
    return int(name.startswith("rows_"))


class Kernels:
    """The kernels of a source by their C++ names, compiled when the first of them is asked for.

    What takes the compiler long is shared out among several at once: parts of the names.
    """

    def __init__(self, source, names, folder, optimize="-O2", parts=1):
        self.source, self.names, self.folder, self.optimize, self.parts = source, list(names), folder, optimize, parts

    @cached_property
    def libraries(self):
        command = [COMPILER, "-std=c++17", self.optimize, "-Wall", "-Werror", "-Wno-unknown-pragmas"]
        command += ["-Wno-unused-function", "-shared", "-fPIC"]
        compilers, libraries = [], []
        for part in range(self.parts):
            file, library = self.folder / f"part_{part}.cpp", self.folder / f"part_{part}.so"
            own = [(k, name) for k, name in enumerate(self.names) if k % self.parts == part]
            entries = "".join(ENTRY.format(k=k, name=name) for k, name in own)
            file.write_text(BEFORE + self.source + AFTER + entries, encoding="utf-8")
            compilers.append(subprocess.Popen([*command, str(file), "-o", str(library)]))
            libraries.append(str(library))
        results = [compiler.wait() for compiler in compilers]
        assert not any(results), f"{COMPILER}: {self.folder}"
        return [ctypes.PyDLL(library) for library in libraries]  # one launch at a time

    def entry(self, what, name):
        k = self.names.index(name)
        return getattr(self.libraries[k % self.parts], f"{what}_{k}")

    def sizes(self, name):
        """Bytes of each parameter."""
        found = (ctypes.c_int * 32)()
        count = self.entry("describe", name)(found)
        return list(found[:count])

    def launch(self, name, grid, threads, values, meets=True, *, together=1, shared=0, seed=0):
        """Run a kernel on values that are ctypes objects.

        If its threads never meet, it takes less time to say so. So many blocks run `together`, each with so many bytes
        of `shared_memory()`, which are not zeros; `seed` is that of the order in which threads run, or 0.
        """
        given = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        columns, rows = (*grid, 1)[:2]
        assert columns * rows % together == 0, f"{name}: a grid {grid} for {together} blocks at once"
        how = (ctypes.c_uint * 7)(columns, rows, threads, meets, together, shared, seed)
        launch = self.entry("launch", name)
        launch.restype = ctypes.c_char_p
        trouble = launch(how, given)
        assert trouble is None, f"{name}: {trouble.decode()}"


class Several:
    """The kernels of several sources."""

    def __init__(self, *kernels):
        self.kernels = kernels

    def of(self, name):
        return next(kernels for kernels in self.kernels if name in kernels.names)

    def sizes(self, name):
        return self.of(name).sizes(name)

    def launch(self, name, *arguments, **options):
        self.of(name).launch(name, *arguments, **options)


class Planted:
    """A source with errors in it, of which one at a time counts: number `chosen`. They are compiled at once."""

    # Types of a source, as template arguments of its kernels.
    TYPES = re.compile(r"\b(Half|Bfloat|Tf32|Ieee|float16|bfloat16)\b")

    def __init__(self, source, errors, folder):
        """Each error is what is replaced, by what, and the names of the kernels that are compiled with it."""
        spaces, names, self.chosen = [], [], None
        for k, (old, new, expressions) in enumerate(errors):
            assert old in source, old
            spaces.append(f"namespace planted_{k} {{\n{source.replace(old, new)}\n}}\n")
            names += [self._within(k, expression) for expression in expressions]
        self.kernels = Kernels("".join(spaces), names, folder, "-O0")

    def _within(self, k, expression):
        return f"planted_{k}::" + self.TYPES.sub(rf"planted_{k}::\1", expression)

    def sizes(self, expression):
        return self.kernels.sizes(self._within(self.chosen, expression))

    def launch(self, expression, *arguments, **options):
        self.kernels.launch(self._within(self.chosen, expression), *arguments, **options)
