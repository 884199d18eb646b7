"""The picture of lstm-xp trace: which steps and units it has, in which order, and what stands beside them."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from lstm_xp import LSTM, saturation, traces
from lstm_xp.commands import gate_plot

# Older releases of Matplotlib call what newer ones of their own dependencies have renamed.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib.*")

D, H = 3, 5


def test_signs_of_bytes():
    assert gate_plot._signs("a é\n\t$".encode()) == ["a", "␣", "é", "·", "↵", "→", "$"]
    assert gate_plot._signs(b"\xffa\xc3") == ["·", "a", "·"]
    assert gate_plot._signs("漢".encode()) == ["·", "·", "·"]


def test_the_steps_and_units_of_a_picture(monkeypatch):
    """The values of the maps, and the numbers and signs beside them."""
    import matplotlib.figure

    figures, made = [], matplotlib.figure.Figure
    monkeypatch.setattr(matplotlib.figure, "Figure", lambda **options: figures.append(made(**options)) or figures[0])
    network = LSTM(D, H)
    x = np.random.default_rng(0).standard_normal((1, 9, D)).astype("float32")
    (found,) = traces(network.forward(network.init(), x)[2])
    gate_plot.draw("png", "t", found, b"abcdefghi", 0, ["l"], [saturation(found)], [4, 1], range(5, 8))
    maps = figures[0].subfigs[0]
    assert maps.get_suptitle() == "t: 3 of 9 steps from 5 on, 2 of 5 units"
    axes = [each for each in maps.axes if each.images]
    assert len(axes) == len(gate_plot.MAPS)
    for each, name in zip(axes, gate_plot.MAPS, strict=True):
        assert np.array_equal(each.images[0].get_array(), getattr(found, name)[0, 5:8, [4, 1]])
        assert each.images[0].get_extent() == [4.5, 7.5, 1.5, -0.5]
        assert [label.get_text() for label in each.get_yticklabels()] == ["4", "1"]
    assert list(axes[-1].get_xticks()) == [5, 6, 7]
    assert [label.get_text() for label in axes[-1].get_xticklabels()] == ["f", "g", "h"]


def test_units_are_ordered_by_memory_and_chosen_evenly(monkeypatch):
    shown = {}
    monkeypatch.setattr(gate_plot, "_heat_maps", lambda figure, trace, order, *rest: shown.update(order=order.tolist()))
    network = LSTM(D, 8)
    (found,) = traces(network.forward(network.init(), np.ones((1, 6, D), np.float32))[2])
    shares = saturation(found)
    found = found._replace(f=np.tile(np.array([3, 7, 1, 0, 6, 2, 5, 4]) / 8, (1, 6, 1)))
    for units, expected in ((8, [1, 4, 6, 7, 0, 5, 2, 3]), (99, [1, 4, 6, 7, 0, 5, 2, 3]), (2, [1, 3]), (1, [1])):
        gate_plot.draw("png", "t", found, None, 0, ["layer"], [shares], units, range(6))
        assert shown["order"] == expected


def test_one_step_is_singular():
    import matplotlib

    for steps, text in ((1, b"Saturation over 1 step<"), (2, b"Saturation over 2 steps<")):
        network = LSTM(D, H)
        _, _, cache = network.forward(network.init(), np.zeros((1, steps, D), "float32"))
        (found,) = traces(cache)
        with matplotlib.rc_context({"svg.fonttype": "none"}):
            picture = gate_plot.draw("svg", "t", found, None, 0, ["layer"], [saturation(found)], 4, range(steps))
        assert text in picture
