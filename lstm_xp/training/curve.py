"""The learning curve as a picture."""

import io


def draw_curve(history, marks, title):
    """A PNG picture, as bytes, of a run's history.

    Parameters
    ----------
    history : sequence of dict
        Records of `loop.train`.
    marks : dict of str to float
        Horizontal lines: their names and their bits per byte.
    title : str
        Of the picture.

    Returns
    -------
    bytes
    """
    # The figure is made without pyplot, which would look for a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    valid = [record for record in history if "valid_bits" in record]
    for key, records, style in (("train", history, {"alpha": 0.6}), ("valid", valid, {"marker": "o", "markersize": 4})):
        axes.plot([r["bytes"] / 1e6 for r in records], [r[f"{key}_bits"] for r in records], label=_LABELS[key], **style)
    for colour, (name, bits) in zip(("tab:green", "tab:red", "tab:purple", "tab:brown"), marks.items(), strict=False):
        axes.axhline(bits, color=colour, linestyle="--", linewidth=1, label=f"{name}: {bits:.3f}")
    shown = [record["train_bits"] for record in history[len(history) // 50 :]] + list(marks.values())
    if shown:
        # The first steps come from 8 bits; the rest is what one wants to see.
        axes.set_ylim(min(shown) - 0.1, min(max(shown), 5.0) + 0.1)
    axes.set(xlabel="text read (MB)", ylabel="bits per byte", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


_LABELS = {"train": "training text", "valid": "validation text"}
