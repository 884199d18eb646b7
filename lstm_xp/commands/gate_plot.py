"""The picture of lstm-xp trace: heat maps of one layer's gates over time, and the saturation of all layers."""

import io

import numpy as np

# Inches.
STEP, LINE, NARROWEST, BESIDE = 0.1, 0.085, 9.0, 1.4
POINTS = 7  # size of the characters below the maps
MOST_CHARACTERS = 170  # as many as fit side by side
MONO = "DejaVu Sans Mono"  # comes with matplotlib
# What is drawn of a trace, and under which name.
MAPS = {
    "i": "input gate i",
    "f": "forget gate f",
    "o": "output gate o",
    "g": "candidate g",
    "c": "cell state c",
}
GRADIENTS = {"dh": "gradient of h", "dc": "gradient of c"}
DECADES = 6  # of the gradients that are told apart
EXTEND = {"c": "both", "dh": "min", "dc": "min"}
LEFT = {"i": "below 0.1", "f": "below 0.1", "o": "below 0.1", "g": "below -0.9"}
SIGNS = {" ": "␣", "\n": "↵", "\t": "→"}
UNKNOWN = "·"


def draw(kind, title, trace, text, place, names, shares, units, steps, gradients=None):
    """The picture as bytes.

    Parameters
    ----------
    kind : {'png', 'svg', 'pdf'}
        Format.
    title : str
        Of the picture.
    trace : Trace
        The layer and direction to show, of one row.
    text : bytes or None
        What was read at each step, where it was a text.
    place : int
        Which of names and shares belongs to `trace`.
    names, shares : list of str, list of Saturation
        Of all layers and directions.
    units : int, or list of int
        The most that are drawn, or which.
    steps : range
        Those that are drawn.
    gradients : GradientTrace or None
        Of the same layer, direction and row: drawn, too, where given.
    """
    # The figure is made without pyplot, which would look for a display.
    from matplotlib.figure import Figure

    total, hidden = trace.f.shape[1:]
    order = _by_memory(trace, units) if isinstance(units, int) else np.array(units)
    with_text = text is not None and len(steps) <= MOST_CHARACTERS
    width = max(NARROWEST, min(len(steps), MOST_CHARACTERS if with_text else 100) * STEP + BESIDE)
    height = (max(0.9, len(order) * LINE) + 0.3) * (len(MAPS) + (gradients is not None) * len(GRADIENTS))
    figure = Figure(figsize=(width, height + 4.2), dpi=110, layout="constrained")
    maps, below = figure.subfigures(2, 1, height_ratios=[height + 0.9, 3.3])
    shown = f"{len(steps)} of {total} steps" if len(steps) < total else f"{total} step{'s' * (total > 1)}"
    shown += f" from {steps.start} on" if steps.start else ""
    drawn = f"{len(order)} of {hidden} units" if len(order) < hidden else f"{hidden} unit{'s' * (hidden > 1)}"
    drawn += ", longest memory on top" if isinstance(units, int) else ""
    maps.suptitle(f"{_drawable(title)}: {shown}, {drawn}", fontsize=11, family=MONO, parse_math=False)
    labels = _signs(text[steps.start : steps.stop]) if with_text else None
    _heat_maps(maps, trace, order, steps, labels, gradients)
    _saturation(below, place, names, shares, total)
    picture = io.BytesIO()
    figure.savefig(picture, format=kind)
    return picture.getvalue()


def _by_memory(trace, most):
    """The units of a trace, those with the longest memory first: all, or as many as these, evenly spread."""
    order = np.argsort(-trace.f[0].mean(axis=0), kind="stable")
    return order[np.linspace(0, len(order) - 1, min(most, len(order))).round().astype(int)]


def _heat_maps(figure, trace, order, steps, labels, gradients):
    shown = MAPS if gradients is None else MAPS | GRADIENTS
    every = figure.subplots(len(shown), 1, sharex=True)
    extent = (steps.start - 0.5, steps.stop - 0.5, len(order) - 0.5, -0.5)  # the axis counts steps as the input does
    for axes, (name, about) in zip(every, shown.items(), strict=True):
        source = trace if name in MAPS else gradients
        values = getattr(source, name)[0, steps.start : steps.stop, :][:, order].T
        if name in GRADIENTS:
            values = np.log10(np.maximum(np.abs(values), np.finfo(values.dtype).smallest_normal))
            style = {"cmap": "inferno", "vmin": values.max() - DECADES, "vmax": values.max()}
            axes.set_title("log10 of the gradient of the last byte's loss", fontsize=8, loc="left")
        elif name in "ifo":
            style = {"cmap": "viridis", "vmin": 0, "vmax": 1}
        elif name == "g":
            style = {"cmap": "RdBu_r", "vmin": -1, "vmax": 1}
        else:
            # A few units count far: they shall not make the others pale.
            bound = float(np.percentile(np.abs(values), 95)) or 1.0
            style = {"cmap": "RdBu_r", "vmin": -bound, "vmax": bound}
        image = axes.imshow(values, aspect="auto", interpolation="nearest", extent=extent, **style)
        bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=12, extend=EXTEND.get(name, "neither"))
        bar.ax.tick_params(labelsize=7)
        axes.set_ylabel(about, fontsize=9)
        apart = -(-len(order) // 16)  # every n-th unit has its number
        axes.set_yticks(range(0, len(order), apart), order[::apart], fontsize=6)
        axes.tick_params(axis="x", labelbottom=False, length=2)
    last = every[-1]
    if labels is not None:
        for axes in every:
            axes.set_xticks(steps)
        last.set_xticklabels(labels, family=MONO, fontsize=POINTS, parse_math=False)
        last.set_xlabel("the bytes of the text, each at the step that reads it", fontsize=9)
    else:
        last.set_xlabel("time step", fontsize=9)
    last.tick_params(axis="x", labelbottom=True)
    every[0].set_title("unit (number at the left)", fontsize=8, loc="left")


def _saturation(figure, place, names, shares, steps):
    import matplotlib

    every = figure.subplots(1, 4, sharey=True)
    colours = matplotlib.colormaps["tab10"]
    for axes, gate in zip(every, LEFT, strict=True):
        axes.plot([0, 1], [1, 0], color="0.6", linewidth=0.8, zorder=0)
        for index, (name, found) in enumerate(zip(names, shares, strict=True)):
            left, right = getattr(found, gate)
            style = {"color": colours(index % 10), "s": 14, "alpha": 0.6, "linewidths": 0}
            axes.scatter(right, left, label=name, zorder=2 + (index == place), **style)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
        axes.set_title(MAPS[gate], fontsize=9)
        axes.set_xlabel("share of steps above 0.9", fontsize=8)
        axes.set_ylabel(f"share of steps {LEFT[gate]}", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25)
    handles, labels = every[0].get_legend_handles_labels()
    figure.legend(handles[:10], labels[:10], loc="outside right center", fontsize=8, title="each point a unit")
    figure.suptitle(f"Saturation over {steps} step{'s' * (steps != 1)}", fontsize=10)


def _signs(data):
    """A sign for each byte of a text: a character of several bytes stands at its first."""
    signs = []
    for char in data.decode("utf-8", "surrogateescape"):
        signs.append(SIGNS.get(char) or _drawable(char))
        signs += [UNKNOWN] * (len(char.encode("utf-8", "surrogateescape")) - 1)
    return signs


def _drawable(text):
    """The text with a sign in place of each character that is not seen, or that the font lacks."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties(family=MONO)))
    return "".join(char if char.isprintable() and font.get_char_index(ord(char)) else UNKNOWN for char in text)
