"""Plots of the results of one run, as SVG and PNG files: colour, marker and a name at its line for each contender."""

import io
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from . import records as files
from .comparison import Comparison, mean, usable, value
from .problems import GROWTH

# Okabe and Ito's colours, which differ for every kind of colour vision; black is for the base.
COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#B8860B", "#56B4E9", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# The work that growth is drawn of: a forward pass for training looks like inference, a step like N = 1.
PICTURED = ("inference", "training")
WON, LOST = "#56B4E9", "#E69F00"

STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    # White behind everything: readable on light and on dark pages.
    "savefig.facecolor": "white",
    "savefig.dpi": 120,
    # Text as text in a short list of fonts, no date and no random names: small files, the same for the same records.
    "svg.fonttype": "none",
    "font.sans-serif": ["DejaVu Sans", "Verdana"],
    "svg.hashsalt": "lstm_xp",
}
METADATA = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}


def write(records, folder, stem):
    """Draw what the records have the data for, into FOLDER/STEM-NAME.svg and .png; (title, SVG file) of each plot."""
    run = Comparison(records)
    written = []
    for name, draw in DRAWINGS.items():
        with matplotlib.rc_context(STYLE):
            figure = draw(run)
            if figure is None:
                continue
            for kind, metadata in METADATA.items():
                content = io.BytesIO()
                figure.savefig(content, format=kind, metadata=metadata)
                files.replace(Path(folder, f"{stem}-{name}.{kind}"), content.getvalue())
        written.append((figure.get_suptitle(), Path(folder, f"{stem}-{name}.svg")))
    return written


def best_rival(run):
    """Bars from the line at 1: up where lstm_xp is faster than the best rival, down where that is faster."""
    whats = [what for what in run.whats() if any(run.best(what, size) for size in run.standard(what))]
    if not whats:
        return None
    title = f"Best rival's time over that of {run.base}: above the line at 1, {run.base} is faster"
    figure, panels = _figure(len(whats), 1, title)
    places = max(len(run.standard(what)) for what in whats)
    for what, ax in zip(whats, panels[:, 0], strict=True):
        found = {size: best for size in run.standard(what) if (best := run.best(what, size))}
        for place, (ratio, rival) in enumerate(found.values()):
            won = ratio >= 1
            ax.bar(
                place, ratio - 1, bottom=1, width=0.6, edgecolor="black",
                color=WON if won else LOST, hatch=None if won else "///",
            )  # fmt: skip
            ax.annotate(
                f"{ratio:.2f}\n{rival}", (place, ratio), (0, 3 if won else -3), textcoords="offset points",
                ha="center", va="bottom" if won else "top", fontsize=7,
            )  # fmt: skip
        ratios = [best.ratio for best in found.values()]
        ax.axhline(1, color="black", linewidth=1.5)
        ax.set_yscale("log", base=2)
        # Room for the words.
        ax.set_ylim(min(0.5, 0.5 * min(ratios)), max(2, 2 * max(ratios)))
        _plain(ax.yaxis)
        ax.set_xlim(-0.6, places - 0.4)
        ax.grid(axis="x", visible=False)
        _name_sizes(ax, found)
        ax.set_title(f"{what}: geometric mean {mean(ratios):.2f} of the best of {', '.join(run.judges(what))}")
        ax.set_ylabel("ratio")
    return _finish(figure, run)


def share(run):
    """Each contender's rate as a share of the rate of a large matrix product."""
    whats = [what for what in run.whats() if what != "step" and run.standard(what)]
    if not whats:
        return None
    title = "Share of the machine's own rate of large matrix products: higher is better"
    figure, panels = _figure(len(whats), 1, title)
    for what, ax in zip(whats, panels[:, 0], strict=True):
        sizes = run.standard(what)
        for name in run.contenders:
            found = [run.get(name, what, size) for size in sizes]
            shares = [100 * record["share_of_gemm"] if usable(record) else np.nan for record in found]
            # Sizes have no order: the thin lines only lead the eye to the names.
            ax.plot(range(len(sizes)), shares, **_look(run, name) | {"linewidth": 0.4})
        ax.set_ylim(0)
        _name_sizes(ax, sizes)
        ax.set_title(what)
        ax.set_ylabel("% of that rate")
    return _finish(figure, run)


def time_per_step(run):
    """Over H = D, one panel per N."""
    return _grid(
        run,
        [axis for axis in run.axes() if axis[0] == "H"],
        "Time per step over H = D: lower is better",
        "\N{MICRO SIGN}s per step",
        lambda record: record["us_per_step"],
    )


def growth(run):
    """Over doublings of N, T and H, with a line that grows as the work does."""
    by_letter = {axis[0]: axis for axis in run.axes()}  # of H the last one, with the largest batch
    return _grid(
        run,
        list(by_letter.values()),
        "Growth of time by doublings: lower is better; the grey line grows as the work",
        "ms",
        lambda record: 1e3 * value(record),
        guide=True,
    )


DRAWINGS = {"best-rival": best_rival, "share": share, "time-per-step": time_per_step, "growth": growth}


def _grid(run, doublings, title, unit, of, guide=False):
    """A panel for each kind of work (down) and each axis of doublings (across), with a line per contender."""
    complete = [what for what in PICTURED if any(set(GROWTH[axis]) <= set(run.sizes(what)) for axis in doublings)]
    whats = [what for what in run.whats() if what in complete]
    if not whats:
        return None
    figure, panels = _figure(len(whats), len(doublings), title)
    for what, row in zip(whats, panels, strict=True):
        row[0].set_ylabel(unit)
        for axis, ax in zip(doublings, row, strict=True):
            sizes = GROWTH[axis]
            if not set(sizes) <= set(run.sizes(what)):
                ax.set_visible(False)
                continue
            places = [size["NTDH".index(axis[0])] for size in sizes]
            for name in run.contenders:
                found = [run.get(name, what, size) for size in sizes]
                ax.plot(places, [of(r) if usable(r) else np.nan for r in found], **_look(run, name))
            last = run.get(run.base, what, sizes[-1])
            if guide and usable(last):
                power = 2 if axis[0] == "H" else 1
                line = [of(last) * (place / places[-1]) ** power for place in places]
                ax.plot(places, line, color="#999999", linewidth=3, alpha=0.6, zorder=0)
            ax.set_xscale("log", base=2)
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            _plain(ax.yaxis)
            ax.set_xticks(places, list(map(str, places)))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.set_title(f"{what}, {_fixed(axis, sizes)}")
            ax.set_xlabel("H = D" if axis[0] == "H" else axis[0])
    return _finish(figure, run)


def _fixed(axis, sizes):
    """The numbers that stay the same along an axis."""
    varying = "DH" if axis[0] == "H" else axis[0]
    return ", ".join(f"{letter} = {n}" for letter, n in zip("NTDH", sizes[0], strict=True) if letter not in varying)


def _figure(rows, columns, title):
    figure = Figure(figsize=(9 if columns == 1 else 3.2 * columns, 2.4 * rows + 0.8), layout="constrained")
    figure.suptitle(title, fontsize=10, fontweight="bold")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _look(run, name):
    place = run.contenders.index(name) % len(COLOURS)
    return {
        "label": name, "color": COLOURS[place], "marker": MARKERS[place],
        "linewidth": 2 if place == 0 else 1.2, "markersize": 5 if place == 0 else 4, "zorder": 3 if place == 0 else 2,
    }  # fmt: skip


def _name_sizes(ax, sizes):
    names = [",".join(map(str, size)) for size in sizes]
    ax.set_xticks(range(len(names)), names, rotation=20, ha="right", fontsize=7)


def _plain(axis):
    """Numbers on a logarithmic axis without exponents."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _finish(figure, run):
    """The machine that the figures are from, and a name at the end of each line."""
    first, machine = run.records[0], run.records[0]["machine"]
    source = (
        f"{machine['cpu']}, {machine['cores']} cores; {first['dtype']} on {first['device']}; "
        f"commit {machine['commit']}; {machine['date'][:10]}"
    )
    figure.supxlabel(source, fontsize=7)
    figure.draw_without_rendering()  # settles where everything is
    for ax in figure.axes:
        _label(ax)
    return figure


def _label(ax):
    """Names at the right of the axes, each as near as may be to the last point of its line, none over another."""
    named = []
    for line in ax.lines:
        points = [point for point in line.get_xydata() if np.all(np.isfinite(point))]
        if points and not line.get_label().startswith("_"):
            named.append((ax.transAxes.inverted().transform(ax.transData.transform(points[-1]))[1], line))
    named.sort(key=lambda pair: pair[0])
    gap = 8 / (72 * ax.get_window_extent().height / ax.figure.dpi)  # of a name of 7 points, as a share of the axes
    heights = []
    for height, _ in named:
        heights.append(max(height, heights[-1] + gap) if heights else height)
    # Down again, from the top, where that went out of the axes.
    ceiling = max(1.0, gap * (len(heights) - 1))
    for n in reversed(range(len(heights))):
        heights[n] = min(heights[n], ceiling)
        ceiling = heights[n] - gap
    for height, (_, line) in zip(heights, named, strict=True):
        ax.text(
            1.02, height, line.get_label(), color=line.get_color(), transform=ax.transAxes,
            fontsize=7, va="center", fontweight="bold" if line.get_zorder() > 2 else "normal",
        )  # fmt: skip
