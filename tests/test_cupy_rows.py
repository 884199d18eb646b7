"""The engine cupy_rows: what it alone does. What all engines for CuPy do is in test_cupy_engines.py.

Its kernels run as C++, the threads of a block in any order: see cuda_on_cpu.py.
"""

import cuda_on_cpu
import numpy as np
import pytest
from on_fake import LIB, agree, agree_in_any_company, forget, machine_of, plain, problem
from problems import same_bits
from test_engines import arrays_of, engine_problem, rounded_as, run_engine

from lstm_xp import EngineError, engines
from lstm_xp.engines import cupy_rows
from lstm_xp.engines.cuda import kernels

ENGINE = engines.load("cupy_rows")
dtypes = pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])


@pytest.fixture
def machine(monkeypatch, kernels_on_cpu):
    yield machine_of(monkeypatch, kernels_on_cpu)
    forget()


@dtypes
@pytest.mark.parametrize("H", [1, 15, 16, 17, 40, 48, 63, 64])
def test_every_kernel(machine, dtype, H):
    """Of each, with and without units that are not there; threads in any order, and the same bits in all of them."""
    values, found = engine_problem(5, 2, H), []
    for machine.seed in (H, H + 1):
        found.append(plain(run_engine("cupy_rows", arrays_of(LIB, values, dtype))))
    agree(found[0], run_engine("array_api", rounded_as(values, dtype)), dtype, 5)
    assert all(same_bits(found[1][name], value) for name, value in found[0].items())
    machine.used()
    units = min(units for units in cupy_rows.UNITS if units >= H)
    expected = [name.partition("<") for name in cupy_rows.expressions(dtype, units)]
    assert [call[:2] for call in machine.calls[:2]] == [(name, types[:-1]) for name, _, types in expected]


@pytest.mark.parametrize("T", range(1, 10))
@pytest.mark.parametrize("keep", [True, False])
def test_every_length(machine, T, keep):
    """What is asked for ahead ends with the sequence."""
    machine.seed, values = T, engine_problem(T, 3, 5)
    found = plain(run_engine("cupy_rows", arrays_of(LIB, values, "float32"), keep))
    expected = run_engine("array_api", rounded_as(values, "float32"), keep)
    agree({name: v for name, v in found.items() if v is not None}, expected, "float32", T)
    machine.used()


# What is planted in rows.cu.
PLANTED = {
    "nothing": ("__syncthreads();", "__syncthreads();"),
    "one buffer for h": ("told[(t + 1) % 2 * UNITS + u]", "told[0 * UNITS + u]"),
    "one buffer for da": ("float* rows = told + left % 2 * GATES * UNITS;", "float* rows = told;"),
    "h is read before it is there": ("widen(h_t) : 0;\n            __syncthreads();", "widen(h_t) : 0;"),
    "da is read before it is there": ("widen(own) : 0;\n            __syncthreads();", "widen(own) : 0;"),
    "h0 is read before it is there": (
        "next[k] = exists && k < T ? gates[k * GATES * step] : 0;\n    __syncthreads();",
        "next[k] = exists && k < T ? gates[k * GATES * step] : 0;",
    ),
    "a quarter of the depth of the neighbour": (
        "(told + t % 2 * UNITS)[part * 4 + q]",
        "(told + t % 2 * UNITS)[part * 4 + (q ^ 1)]",
    ),
    "the gates of the neighbour": (
        "kept = upper ? sums[2 + j] : sums[j], given = upper ? sums[j] : sums[2 + j]",
        "kept = upper ? sums[j] : sums[2 + j], given = upper ? sums[2 + j] : sums[j]",
    ),
    "half of a sum": ("return v + __shfl_xor_sync(~0u, v, 2);", "return v;"),
    "units that are not there say what they compute": ("= exists ? widen(h_t) : 0", "= widen(h_t)"),
    "c of this step for the one before": ("c[size_t(left - 2) * step", "c[size_t(left - 1) * step"),
    "dc stays at its step": ("dc_t = all_dc * f;", "dc_t = all_dc;"),
}


@pytest.fixture(scope="module")
def with_errors(kernels_on_cpu, tmp_path_factory):
    errors = [(old, new, cupy_rows.expressions("float32", 16)) for old, new in PLANTED.values()]
    return cuda_on_cpu.Planted(kernels.source(*cupy_rows.FILES), errors, tmp_path_factory.mktemp("planted"))


@pytest.mark.parametrize("planted", PLANTED)
def test_an_error_in_the_source_would_be_seen(machine, with_errors, planted):
    """As other bits: some order of threads shows it. Where nothing is planted, none does."""
    values = engine_problem(24, 2, 13)
    values["h0"][0, 3] = np.inf
    arrays = arrays_of(LIB, values, "float32")
    right = plain(run_engine("cupy_rows", arrays))
    machine.compiled, with_errors.chosen = with_errors, list(PLANTED).index(planted)

    def is_seen(seed):
        machine.seed = seed
        try:
            found = plain(run_engine("cupy_rows", arrays))
        except AssertionError:
            return True
        return any(not same_bits(found[name], right[name]) for name in right)

    assert any(is_seen(seed) for seed in range(1, 61)) == (planted != "nothing")


def test_units_that_are_not_there_keep_infinite_states_to_themselves(machine):
    """A weight of zero times an infinite h is NaN: it must not come from there."""
    values = engine_problem(4, 3, 5)
    values["h0"][0, 0] = np.inf
    values["Wh"] = np.abs(values["Wh"]) + 0.1
    found = plain(run_engine("cupy_rows", arrays_of(LIB, values, "float32"), keep=False))
    with np.errstate(invalid="ignore"):
        expected = run_engine("array_api", rounded_as(values, "float32"), keep=False)
    agree({"h": found["h"]}, expected, "float32", 4)


def test_rows_have_the_same_bits_in_any_company(machine):
    agree_in_any_company("cupy_rows", arrays_of(LIB, engine_problem(3, 6, 20), "float32"), slice(2, 4))


# Choice


def test_it_runs_when_it_is_named_and_is_not_chosen_by_itself(monkeypatch):
    """Where no device like this one has been measured."""
    machine = machine_of(monkeypatch, processors=100)
    assert engines.choose("auto", problem(machine)).name == "array_api"
    assert engines.choose("cupy_rows", problem(machine)).name == "cupy_rows"
    assert "proved" in ENGINE.declines(problem(machine))


@pytest.mark.parametrize(("precision", "stages"), [("ieee", "ieee"), ("tf32", "tf32"), ("tf32x3", "ieee")])
def test_a_precision_is_that_of_the_other_stages(precision, stages):
    assert engines.load("cupy_rows", precision).precision == stages


@pytest.mark.parametrize(
    ("capability", "options", "reason"),
    [
        ("90", {"library": "numpy"}, "it needs CuPy arrays, these are numpy's"),
        ("90", {"dtype": "float64"}, "it computes float16, bfloat16, float32, not float64"),
        ("70", {}, "float32 needs compute capability 7.5, this device has 7.0"),
        ("75", {"dtype": "bfloat16"}, "bfloat16 needs compute capability 8.0, this device has 7.5"),
        ("90", {"H": 65}, "a block holds Wh for H up to 64; H is 65"),
        ("90", {"N": 2**24, "H": 64}, "4 N H and N T must be below 2^31"),
    ],
)
def test_what_it_refuses(monkeypatch, capability, options, reason):
    machine = machine_of(monkeypatch, capability=capability)
    assert reason in ENGINE.refuses(problem(machine, **options))
    with pytest.raises(EngineError, match="cupy_rows"):
        engines.choose("cupy_rows", problem(machine, **options))


@pytest.mark.parametrize("capability", ["75", "80", "90", "100", "120"])
def test_what_it_does_not_refuse(monkeypatch, capability):
    machine = machine_of(monkeypatch, capability=capability)
    for dtype in ("float16", "float32"):
        assert ENGINE.refuses(problem(machine, dtype, H=64)) == ""
