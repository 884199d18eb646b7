"""CuPy itself takes what the engines ask of it: its own code, with nothing in the place of a GPU (cupy_without_gpu.py).

What fake_cupy.py pretends is NumPy; here names, arguments, memory, dtypes, devices and the rules of capture are CuPy's.
"""

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from lstm_xp import engines

SCRIPT = Path(__file__).with_name("cupy_scenarios.py")
# cuBLAS's table for gemmEx: types of A, B and C, compute type.
FLOAT16, BFLOAT16, FLOAT32, FLOAT64 = 2, 14, 0, 1
SUPPORTED = {
    (kind, kind, FLOAT32): {68, 69} | ({77} if kind == FLOAT32 else set()) for kind in (FLOAT16, BFLOAT16, FLOAT32)
} | {(FLOAT64, FLOAT64, FLOAT64): {70}, (BFLOAT16, BFLOAT16, BFLOAT16): {68, 69}}


def scenario(name):
    for module in ("cupy", "array_api_compat", "ml_dtypes"):
        if not find_spec(module):
            pytest.skip(f"{module} is not installed")
    for tool in ("g++", "nm", "readelf"):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")
    command = [sys.executable, str(SCRIPT), name]
    done = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPT.parent.parent)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert not result["wrong"]
    return result | {"printed": done.stdout}


def test_every_engine_dtype_and_order():
    result = scenario("every_engine")
    expected = [
        [engine, dtype, precision]
        for engine in engines.candidates("cupy")
        for dtype in ("float64", "float32", "float16", "bfloat16")
        for precision in ("ieee", "tf32")
        if dtype != "float64" or engine in ("cupy_fused", "array_api")
    ]
    assert sorted(result["ran"]) == sorted(expected)
    assert result["waits"] == 0
    # cupy_step: 40 steps forward, and 41 backward, are two graphs each; cupy_fused: 32 steps and 8, two nodes each.
    assert result["graphs"] == [
        ["cupy_fused", False, 64, 16],
        ["cupy_fused", True, 64, 16, 64, 16],
        ["cupy_step", False, 32, 32],
        ["cupy_step", True, 32, 32, 32, 32],
    ]


def test_numbers():
    """Those of whole calls, whose kernels are all the engines' own: computed here (cupy_on_cpu.py)."""
    if not shutil.which("c++filt"):
        pytest.skip("c++filt is not installed")
    shares = scenario("numbers")["shares"]
    expected = {
        f"{engine}, {dtype}, {reverse}, {lengths}"
        for engine in engines.candidates("cupy")[:-1]
        for dtype in ("float32", "bfloat16")
        for reverse in (False, True)
        for lengths in (None, [36, 0, 7])
    } | {f"{engine}, recorded" for engine in engines.candidates("cupy")[:-1]}
    assert set(shares) == expected
    assert 0 < max(shares.values()) <= 1


def test_products_are_in_the_table_of_cublas():
    products = scenario("products")["products"]
    assert len(products) >= 24  # of each that is captured one, before
    assert {one["count"] for one in products} == {1, 4}  # backward, one of each gate
    assert {(one["Atype"], one["compute"]) for one in products if one["count"] == 4} == {(FLOAT32, 77), (BFLOAT16, 68)}
    kinds = set()
    for one in products:
        types = one["Atype"], one["Btype"], one["Ctype"]
        kinds.add((*types, one["compute"]))
        assert one["compute"] in SUPPORTED[types], one
        assert one["lda"] >= (one["k"] if one["transa"] else one["m"])
        assert one["ldb"] >= (one["n"] if one["transb"] else one["k"])
        assert one["ldc"] >= one["m"]
    # Half types as they are, in IEEE terms; what is float32 as TF32, which was asked for, or is beside float16; but for
    # sums. dx of bfloat16 is rounded by cuBLAS.
    assert kinds == {
        (FLOAT16, FLOAT16, FLOAT32, 68),
        (BFLOAT16, BFLOAT16, FLOAT32, 68),
        (BFLOAT16, BFLOAT16, BFLOAT16, 68),
        (FLOAT32, FLOAT32, FLOAT32, 77),
        (FLOAT32, FLOAT32, FLOAT32, 68),
    }
    assert {one["m"] for one in products if (one["Atype"], one["compute"]) == (FLOAT32, 68)} == {4 * 33}
    assert {one["n"] for one in products if (one["Atype"], one["compute"]) == (FLOAT32, 68)} == {1}


def test_no_launch_is_made_that_can_be_spared():
    result = scenario("launches")
    assert result["same"]
    assert result["own"]
    found = {}
    for key, (names, products) in result["launches"].items():
        found[key] = sum("cupy_" in name for name in names), len(names), products
    # CuPy's own launches, of copies that are written to or are of another dtype; all; products.
    assert found == {
        "float32, True": (0, 6, 3),
        "float32, False": (0, 2, 1),
        "float16, True": (0, 12, 4),
        "float16, False": (0, 4, 1),
    }


def test_recorded_calls_are_one_graph():
    result = scenario("recordings")
    # Launches and products; cupy_step: a launch per step, 40 and 41; cupy_fused: two per step.
    assert {name: len(launched) for name, launched in result["recordings"].items()} == dict.fromkeys(
        engines.candidates("cupy")[:-1], 1
    )
    assert result["recordings"]["cupy_cluster"] == ["graph of 7"]
    assert result["left"] == [1, 1, 1]  # the one that the last result lies in
    # Device memory, after each of them.
    taken = result["taken"]
    for name in dict.fromkeys(name.partition(",")[0] for name in taken):
        assert len({size for turn, size in taken.items() if turn.startswith(name)}) == 1, name
    assert taken["it cannot be captured, 0"] == taken["the garbage collector, 0"]
    assert result["kept"] == [3, 40, 33]
    lengths, device = result["told"]
    assert lengths.startswith("ValueError: lstm_forward: lengths must be an array of the device in a recorded call;")
    assert device.startswith("ValueError: a call that was recorded on cuda:0 can only be replayed where that device")


def test_a_thread_has_a_context_before_it_launches():
    assert scenario("fresh_thread")["done"] == [[3, 40, 33]] * 2


def test_all_goes_to_the_current_stream():
    result = scenario("streams")
    assert len(result["streams"]) == 6
    for seen, current in result["streams"].values():
        assert seen == [current]
    assert result["kept"] == 12  # two directions of two engines on each of three streams


def test_a_second_device_is_made_current_first():
    result = scenario("second_device")
    assert all(result["launched"].values())
    assert result["devices"] == [1]
    assert result["told"] == (
        "lstm_forward: the arrays lie on cuda:1, but cuda:0 is current, and CuPy makes arrays on that one; "
        "call it inside of: with cupy.cuda.Device(1)."
    )


def test_the_check_command():
    result = scenario("check_command")
    assert result["status"] == [0, 0]
    lines = [line.split()[2:4] for line in result["printed"].splitlines() if line.startswith("cupy ")]
    assert {engine for engine, _ in lines} == set(engines.candidates("cupy"))
    assert all([engine, "bfloat16"] in lines for engine in engines.candidates("cupy"))


def test_info_says_of_engines_what_they_would():
    result = scenario("info_without_cublas")
    assert result["status"] == 0
    told, refused = result["printed"].split("\n  cupy ")[1].splitlines()[:2]
    assert told.endswith("; engines: array_api")
    others = ", ".join(engines.candidates("cupy")[:-1])
    assert refused.strip().startswith(f"not {others}: cuBLAS cannot be loaded (")


def test_one_step_at_a_time():
    result = scenario("one_step_at_a_time")
    assert result["shape"] == [3, 7]
    assert result["waits"] == 0
