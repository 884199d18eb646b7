"""Every kernel of the CUDA engines compiles for every architecture that they claim: without a GPU, CuPy or a driver."""

import re

import nvrtc as compiler
import pytest

from lstm_xp.engines.cuda import kernels, pointwise

# Compute capabilities, times ten, of all generations from Turing to Blackwell; NVRTC may be too old or new for some.
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)
NAMES = pointwise.EXPRESSIONS

# As CuPy compiles: it adds the last one.
OPTIONS = (*kernels.OPTIONS, "-ftz=true")

# Blocks of 128 threads: with so many registers, a processor still holds its 2048 threads (float32: 65536 / 2048).
REGISTERS = {"float": 32, "double": 48}
SPILL = """
__global__ void spills(float* v) {
    float all[300];
    for (int k = 0; k < 300; ++k) all[k] = v[k];
    __syncthreads();
    for (int k = 0; k < 300; ++k) v[k] = all[(k * int(v[k])) % 300];
}
"""


def compiled(nvrtc, target, source=None, names=NAMES):
    architecture = int(target.partition("_")[2])
    if architecture not in compiler.architectures(nvrtc):
        pytest.skip(f"NVRTC {'.'.join(map(str, compiler.version(nvrtc)))} does not compile for {architecture}")
    source = kernels.source(pointwise.FILE) if source is None else source
    return compiler.compile(nvrtc, source, names, target, OPTIONS)


@architectures
def test_nothing_is_spilled(nvrtc, architecture):
    _, resources, log, _ = compiled(nvrtc, f"sm_{architecture}")
    assert set(resources) == set(NAMES)
    for name, used in resources.items():
        assert used.spilled == used.stack == used.shared == 0, f"{name}: {used}"
        assert 8 < used.registers <= REGISTERS["double" if "double" in name else "float"], f"{name}: {used}"
    assert "warning" not in log


@architectures
def test_float32_is_computed_in_float32(nvrtc, architecture):
    """No constant or function of a float kernel is a double one: on most GPUs they take 32 to 64 times as long."""
    ptx, _, _, lowered = compiled(nvrtc, f"compute_{architecture}")
    for name, mangled in lowered.items():
        code = re.search(rf"\.entry {mangled}\(.*?\n}}\n", ptx, re.DOTALL)[0]
        assert (".f64" in code) == ("double" in name), name


def test_a_spill_would_be_seen(nvrtc):
    _, resources, _, _ = compiled(nvrtc, "sm_80", SPILL, ["spills"])
    assert resources["spills"].stack >= 1200


def test_an_error_would_be_seen(nvrtc):
    with pytest.raises(AssertionError, match=r"sm_80: .*undefined"):
        compiled(nvrtc, "sm_80", SPILL.replace("v[k];", "w[k];", 1), ["spills"])


def test_nearly_all_architectures_are_compiled_for(nvrtc):
    """A skip above is for what one NVRTC lacks: no more than two of the seven."""
    assert len(set(ARCHITECTURES) & set(compiler.architectures(nvrtc))) >= 5
