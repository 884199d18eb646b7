"""Every kernel of the CUDA engines compiles for every architecture that they claim: without a GPU, CuPy or a driver."""

import re
from functools import cache

import nvrtc as compiler
import pytest

from lstm_xp.engines import cupy_rows
from lstm_xp.engines.cuda import (
    chunks,
    cluster_plan,
    grid,
    grid_plan,
    kernels,
    plan,
    pointwise,
    stages,
    step_launches,
    whole,
)

# Compute capabilities, times ten, of all generations from Turing to Blackwell; NVRTC may be too old or new for some.
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)
of_steps = pytest.mark.parametrize("architecture", [number for number in ARCHITECTURES if number >= plan.LEAST])
# As CuPy compiles: it adds the last two.
OPTIONS = (*kernels.OPTIONS, "-ftz=true", "--device-as-default-execution-space")

POINTWISE = kernels.source(*pointwise.FILES), pointwise.EXPRESSIONS
STAGES = kernels.source(*stages.FILES), stages.EXPRESSIONS
WHOLE = kernels.source(*whole.FILES), whole.EXPRESSIONS
CHUNK = kernels.source(*chunks.FILES), ("fill_chunk", *chunks.EXPRESSIONS)
STEP = {clusters: (kernels.source(*step_launches.FILES), plan.expressions(clusters)) for clusters in (False, True)}
ROWS = kernels.source(*cupy_rows.FILES), cupy_rows.every_expression()
GRID = kernels.source(*grid.FILES), grid_plan.expressions()
of_pointwise = pytest.mark.parametrize(
    ("source", "names"), [POINTWISE, CHUNK, STAGES, WHOLE], ids=["pointwise", "chunk", "stages", "whole"]
)
# Blocks of 128 threads: with so many registers, a processor still holds its 2048 threads (float32: 65536 / 2048), or
# 1280 of those that look up their addresses, which have all that they load on its way at once.
REGISTERS = {"float": 32, "double": 48}
CUTS = cluster_plan.kernels()
# All of them for one architecture; for the other those of the largest clusters, which need the most registers.
CLUSTERS = {90: tuple(CUTS), 100: tuple(name for name, cut in CUTS.items() if cut.blocks == 16)}
of_clusters = pytest.mark.parametrize("architecture", CLUSTERS)
PASSES = plan.kernels()
SPILL = """
__global__ void spills(float* v) {
    float all[300];
    for (int k = 0; k < 300; ++k) all[k] = v[k];
    __syncthreads();
    for (int k = 0; k < 300; ++k) v[k] = all[(k * int(v[k])) % 300];
}
"""


@cache
def compiled(nvrtc, target, source, names):
    architecture = int(target.partition("_")[2])
    if architecture not in compiler.architectures(nvrtc):
        pytest.skip(f"NVRTC {'.'.join(map(str, compiler.version(nvrtc)))} does not compile for {architecture}")
    return compiler.compile(nvrtc, source, names, target, OPTIONS)


def code_of(nvrtc, architecture, source, names):
    """PTX of each kernel."""
    ptx, _, _, lowered = compiled(nvrtc, f"compute_{architecture}", source, names)
    return {name: re.search(rf"\.entry {mangled}\(.*?\n}}\n", ptx, re.DOTALL)[0] for name, mangled in lowered.items()}


@architectures
@of_pointwise
def test_nothing_is_spilled(nvrtc, architecture, source, names):
    _, resources, log, _ = compiled(nvrtc, f"sm_{architecture}", source, names)
    assert set(resources) == set(names)
    for name, used in resources.items():
        assert used.spilled == used.stack == used.shared == 0, f"{name}: {used}"
        most = REGISTERS["double" if "double" in name else "float"] + (16 if "chunk" in name else 0)
        assert 4 < used.registers <= most, f"{name}: {used}"
    assert "warning" not in log


@of_steps
def test_steps_use_what_is_planned(nvrtc, architecture):
    """No spills, no shared memory but that of the launch, and registers for all threads of a block."""
    source, names = STEP[architecture >= plan.CLUSTERS]
    _, resources, log, _ = compiled(nvrtc, f"sm_{architecture}", source, names)
    assert set(resources) == set(names)
    for name, used in resources.items():
        assert used.spilled == used.stack == used.shared == 0, f"{name}: {used}"
        threads = PASSES[name].block if name in PASSES else 512
        assert 8 < used.registers <= min(255, 65536 // threads), f"{name}: {used}"
    assert "warning" not in log


@of_steps
def test_steps_read_sixteen_bytes_at_once_and_multiply_on_tensor_cores(nvrtc, architecture):
    for name, code in code_of(nvrtc, architecture, *STEP[architecture >= plan.CLUSTERS]).items():
        assert ".f64" not in code, name
        if name in PASSES:
            assert ("barrier.cluster" in code) == (PASSES[name].tile.split > 1), name
            assert len(re.findall(r"ld\.global(\.nc)?\.v4", code)) >= 2, name
            shape = {"Half": "m16n8k16.row.col.f32.f16", "Bfloat": "m16n8k16.row.col.f32.bf16", "Tf32": "m16n8k8"}
            wanted = shape.get(PASSES[name].product)
            found = set(re.findall(r"mma\.sync\.aligned\.(\S+)", code))
            assert len(found) == (wanted is not None), name
            assert wanted is None or found.pop().startswith(wanted), name


@pytest.mark.parametrize("architecture", [number for number in ARCHITECTURES if number >= plan.CLUSTERS])
def test_a_step_reads_nothing_but_weights_before_the_one_before_has_ended(nvrtc, architecture):
    """Programmatically launched, it may begin while that one still writes, and waits for all of it."""
    for name, code in code_of(nvrtc, architecture, *STEP[True]).items():
        assert code.count("griddepcontrol.wait;") == code.count("griddepcontrol.launch_dependents;") == (name in PASSES)
        # No load is one of data that nobody writes: it would be free to come earlier.
        assert "ld.global.nc" not in code or name not in PASSES, name
        if name in PASSES:
            assert read_before_the_wait(code) == {1}, name


def read_before_the_wait(code):
    """Which parameters of the kernel the addresses come from that it reads there; it writes nothing."""
    before, comes_from, read = code.partition("griddepcontrol.wait;")[0], {}, set()
    for line in before.partition("{")[2].splitlines():
        if not (found := re.match(r"\s*(?:@!?%\w+ )?([a-z][\w.:]*)\s+(.*);", line)):
            continue
        operation, operands = found[1], found[2]
        assert not re.match(r"st\.|red\.|atom\.|call|ret|exit|barrier|bar\.", operation), line
        if parameter := re.search(r"\[\w+_param_(\d)", operands):
            sources = {int(parameter[1])}
        else:
            target, *others = re.findall(r"%[a-z]+\d+", operands) or [None]
            sources = set().union(*(comes_from.get(v, set()) for v in others))
        if operation.startswith("ld.") and not operation.startswith("ld.param"):
            assert operation.startswith("ld.global"), line
            address = re.search(r"\[(%\w+)", operands)[1]
            read |= {number for number in comes_from[address] if number < 3}  # pointers
        elif target := re.match(r"%\w+", operands):
            comes_from[target[0]] = comes_from.get(target[0], set()) | sources
    return read


def compiled_clusters(nvrtc, architecture):
    return compiled(nvrtc, f"sm_{architecture}", kernels.source(*cluster_plan.FILES), CLUSTERS[architecture])


@of_clusters
def test_clusters_use_what_is_planned(nvrtc, architecture):
    """No spills, no shared memory but that of the launch, and registers for as many threads as there may be."""
    _, resources, log, _ = compiled_clusters(nvrtc, architecture)
    assert set(resources) == set(CLUSTERS[architecture]) <= set(CUTS) == set(cluster_plan.expressions())
    for name, used in resources.items():
        assert used.spilled == used.stack == used.shared == 0, f"{name}: {used}"
        assert 32 < used.registers <= min(255, 65536 // CUTS[name].most_threads), f"{name}: {used}"
        # What is held stays there.
        assert used.registers > 4 * CUTS[name].held * CUTS[name].groups * CUTS[name].pieces
    assert "warning" not in log


@of_clusters
def test_clusters_are_launched_and_multiply_as_planned(nvrtc, architecture):
    ptx, _, _, lowered = compiled_clusters(nvrtc, architecture)
    for name, mangled in lowered.items():
        code, cut = ptx.partition(f".entry {mangled}(")[2].partition(".entry")[0], CUTS[name]
        assert re.search(r"\.maxntid (\d+)", code)[1] == str(cut.most_threads), name
        assert re.search(r"\.reqnctapercluster (\d+)", code)[1] == str(cut.blocks), name
        assert ("st.async.weak.shared::cluster" in code) == (cut.blocks > 1), name
        assert ".f64" not in code, name
        shape = {"Half": "m16n8k16.row.col.f32.f16", "Bfloat": "m16n8k16.row.col.f32.bf16", "Ieee": None}
        wanted = shape.get(cut.product, "m16n8k8.row.col.f32.tf32")
        found = set(re.findall(r"mma\.sync\.aligned\.(\S+)", code))
        assert len(found) == (wanted is not None), name
        assert wanted is None or found.pop().startswith(wanted), name


@of_steps
def test_grids_use_what_is_planned(nvrtc, architecture):
    """No spills, beside the weights that registers hold; and of shared memory only what a launch asks for."""
    _, resources, log, _ = compiled(nvrtc, f"sm_{architecture}", *GRID)
    assert set(resources) == set(grid_plan.expressions())
    for name, used in resources.items():
        assert used.spilled == used.stack == used.shared == 0, f"{name}: {used}"
        assert 96 < used.registers <= 255, f"{name}: {used}"
    assert "warning" not in log


@pytest.mark.parametrize("architecture", [plan.LEAST, ARCHITECTURES[-1]])
def test_grids_read_messages_past_the_first_cache(nvrtc, architecture):
    """With a scope of the whole device; no load is one of data that nobody writes."""
    shapes = {"Half": "m16n8k16.row.col.f32.f16", "Bfloat": "m16n8k16.row.col.f32.bf16", "Ieee": None}
    for name, code in code_of(nvrtc, architecture, *GRID).items():
        assert ".f64" not in code, name
        assert ".nc" not in code, name
        assert len(re.findall(r"ld\.relaxed\.gpu\.global\.v4", code)) >= 4, name
        assert code.count("st.relaxed.gpu.global.u32") >= 2, name
        assert code.count("fence.acq_rel.gpu") == 1, name
        wanted = shapes.get(name.split(", ")[1], "m16n8k8")
        found = set(re.findall(r"mma\.sync\.aligned\.(\S+)", code))
        assert len(found) == (wanted is not None), name
        assert wanted is None or found.pop().startswith(wanted), name


@architectures
def test_rows_keep_their_weights_in_registers(nvrtc, architecture):
    """No spills, no shared memory but that of the launch, and on 9.0 registers for two blocks."""
    _, resources, log, _ = compiled(nvrtc, f"sm_{architecture}", *ROWS)
    assert set(resources) == set(cupy_rows.every_expression())
    for name, used in resources.items():
        units = int(name.rstrip(">").rpartition(" ")[2])
        assert used.spilled == used.stack == used.shared == 0, f"{name}: {used}"
        most = 65536 // (4 * units * (2 if architecture == 90 else 1))
        assert units < used.registers <= min(255, most), f"{name}: {used}"
    assert "warning" not in log


@architectures
@of_pointwise
def test_float32_is_computed_in_float32(nvrtc, architecture, source, names):
    """No constant or function of a float kernel is a double one: on most GPUs they take 32 to 64 times as long."""
    for name, code in code_of(nvrtc, architecture, source, names).items():
        assert (".f64" in code) == ("double" in name), name


def test_a_spill_would_be_seen(nvrtc):
    _, resources, _, _ = compiled(nvrtc, "sm_80", SPILL, ("spills",))
    assert resources["spills"].stack >= 1200


def test_an_error_would_be_seen(nvrtc):
    with pytest.raises(AssertionError, match=r"sm_80: .*undefined"):
        compiled(nvrtc, "sm_80", SPILL.replace("v[k];", "w[k];", 1), ("spills",))


def test_nearly_all_architectures_are_compiled_for(nvrtc):
    """A skip above is for what one NVRTC lacks: no more than two of the seven."""
    assert len(set(ARCHITECTURES) & set(compiler.architectures(nvrtc))) >= 5
