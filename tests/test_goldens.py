"""The committed goldens are what their script makes, and test what they should."""

import sys
from pathlib import Path

import numpy as np
import pytest
from problems import GOLDENS, GRADIENTS, OUTPUTS

sys.path.insert(0, str(Path(__file__).parent / "goldens"))
import make


@pytest.mark.parametrize("case", ["one step"])
def test_the_script_makes_them(case):
    pytest.importorskip("mpmath")
    assert make.make(case) == GOLDENS[case]


def test_the_script_makes_other_cases_too():
    """All outputs, and of the gradients the cheapest."""
    pytest.importorskip("mpmath")
    for case in GOLDENS:
        made = make.make(case, arguments=["b"])
        assert made == {name: GOLDENS[case][name] for name in made}, case


@pytest.mark.parametrize("case", GOLDENS)
def test_every_array_and_every_gate_block_tells(case):
    golden = GOLDENS[case]
    for name in (*OUTPUTS, *GRADIENTS):
        assert np.any(golden[name]), name
    for name in ("Wx", "Wh", "b", "dWx", "dWh", "db"):
        blocks = np.split(np.array(golden[name]), 4, axis=-1)
        pairs = [(a, b) for k, a in enumerate(blocks) for b in blocks[:k]]
        assert all(np.any(a != b) for a, b in pairs), name
    assert golden["h0"] != golden["c0"]
    assert golden["dh_n"] != golden["dc_n"]
    assert len({len(golden["x"]), len(golden["x"][0]), len(golden["x"][0][0]), len(golden["Wh"])}) == 4
