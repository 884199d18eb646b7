"""The benchmark of calls beside other work: what is measured is what the table says. No time is judged."""

import pytest

from benchmarks import beside, records


def test_a_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(beside, "SIDE", 8)
    out = tmp_path / "found.jsonl"
    assert beside.main(["--sizes", "2,3,4,5", "1,2,3,4", "--rounds", "1", "--seconds", "0", "--out", str(out)]) == 0
    found = records.read(out)
    assert [record["beside"] for record in found] == 2 * list(beside.CONDITIONS)
    assert [[record[letter] for letter in "NTDH"] for record in found[::4]] == [[2, 3, 4, 5], [1, 2, 3, 4]]
    assert all(record["median_s"] == record["round_medians_s"][0] > 0 for record in found)
    printed = capsys.readouterr().out
    assert beside.table(found) in printed
    for record in found:
        assert f"{1e3 * record['median_s']:.3g}" in printed


def test_what_stands_around_a_call(monkeypatch):
    """A product comes before each call where it is said so; the variable is in the environment of the process."""
    products = []

    class Factor:
        def __matmul__(self, other):
            products.append(other)

    monkeypatch.setattr(beside.np, "ones", lambda *arguments: Factor())
    assert len(beside.calls([1, 2, 3, 4], False, 0)) == 2
    assert not products
    assert len(beside.calls([1, 2, 3, 4], True, 0)) == len(products) == 2


def test_a_process_that_fails_is_said(monkeypatch):
    monkeypatch.setitem(beside.CONDITIONS, "alone", ({"NUMBA_NUM_THREADS": "none"}, False, False))
    with pytest.raises(SystemExit, match="alone: "):
        beside.measure((1, 2, 3, -4), "alone", 0)
