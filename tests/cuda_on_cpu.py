"""A CUDA source compiled as C++ for this processor, its threads run one after the other: a test of the very source.

What CUDA adds to C++ is put in front of it. Arguments are passed as cuLaunchKernel takes them: one address each.
"""

import ctypes
import shutil
import subprocess

COMPILER = shutil.which("g++")

BEFORE = r"""
#include <cmath>
#include <cstddef>
#include <cstring>
#include <utility>
using std::exp;
using std::tanh;
#define __global__
#define __device__
struct { unsigned x; } blockIdx, blockDim, threadIdx;
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
"""

AFTER = r"""
template <typename... Types, std::size_t... Places>
static void run(
    void (*kernel)(Types...), unsigned blocks, unsigned threads, void** given, std::index_sequence<Places...>) {
    blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) kernel(*static_cast<Types*>(given[Places])...);
}
template <typename... Types>
static void launch(void (*kernel)(Types...), unsigned blocks, unsigned threads, void** given) {
    run(kernel, blocks, threads, given, std::index_sequence_for<Types...>());
}
template <typename... Types>
static int describe(void (*)(Types...), int* sizes) {
    int found[] = {int(sizeof(Types))...};
    memcpy(sizes, found, sizeof found);
    return sizeof...(Types);
}
"""

ENTRY = """
extern "C" void launch_{k}(unsigned blocks, unsigned threads, void** given) {{
    launch(&{name}, blocks, threads, given);
}}
extern "C" int describe_{k}(int* sizes) {{ return describe(&{name}, sizes); }}
"""


class Kernels:
    """The kernels of a source by their C++ names."""

    def __init__(self, source, names, folder):
        entries = "".join(ENTRY.format(k=k, name=name) for k, name in enumerate(names))
        file, library = folder / "kernels.cpp", folder / "kernels.so"
        file.write_text(BEFORE + source + AFTER + entries, encoding="utf-8")
        command = [COMPILER, "-std=c++17", "-O2", "-Wall", "-Werror", "-Wno-unknown-pragmas", "-shared", "-fPIC"]
        subprocess.run([*command, str(file), "-o", str(library)], check=True)
        self.library, self.names = ctypes.CDLL(str(library)), list(names)

    def sizes(self, name):
        """Bytes of each parameter."""
        found = (ctypes.c_int * 32)()
        count = getattr(self.library, f"describe_{self.names.index(name)}")(found)
        return list(found[:count])

    def launch(self, name, blocks, threads, values):
        """Run a kernel on values that are ctypes objects."""
        given = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        getattr(self.library, f"launch_{self.names.index(name)}")(blocks, threads, given)
