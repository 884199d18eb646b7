"""The report of a result: tables as Markdown, and a plot."""

import re
from statistics import median as middle

from ..report import as_markdown
from ..tables import Table
from . import environment, sizes, verdict
from .ratios import BEST, TITLE, WHATS, best, classes, losses, ratios
from .ratios import size_name as _name

PLOT_TITLE = f"{BEST}: {TITLE}"


def markdown(result):
    """Everything about a result."""
    parts = ["* " + "\n* ".join(about(result)) + "\n", *(as_markdown(table) for table in tables(result) if table.rows)]
    return "\n".join(parts)


def summary(result):
    """The same without the times themselves."""
    return "\n".join(
        [*(as_markdown(table) for table in _short(result) if table.rows), "* " + "\n* ".join(about(result))]
    )


def about(result):
    """Where, when, with what, what is wrong and what is missing: lines of text."""
    machine = result["machine"]
    lines = ["A rehearsal on a CPU: no figure here means anything."] if result["rehearsal"] else []
    lines += [environment.line(record) for record in of_part(result, "environment")]
    lines += [f"{machine['cpu']}, {machine['cores']} cores; commit {machine['commit']}; {machine['date']}"]
    lines += [f"`{result['command']}`"]
    lines += ["took " + ", ".join(f"{name} {part['seconds']:.0f} s" for name, part in result["parts"].items())]
    wrong = verdict.wrong(result)
    lines += [f"WRONG: {line}" for line in wrong] or ["no wrong numbers among those that were checked"]
    lines += [f"out of time: {count} pieces of {name}" for name, count in verdict.unfinished(result).items()]
    if others := {record["kind"]: None for record in result["records"] if record.get("cudnn") is False}:
        lines += [f"torch.nn.LSTM ran without cuDNN in {', '.join(others)}"]
    reasons = {}
    for line in verdict.unmeasured(result):
        where, _, reason = line.partition(": ")
        alike = re.sub(r"[\d,.]+ (?=GB|GiB|MiB|KiB|bytes)", "", reason)  # but for what there was of memory
        reasons.setdefault(alike, []).append((where, reason))
    for found in reasons.values():
        (where, reason), *_ = found
        lines += [f"not measured: {reason} ({len(found)} times, first: {where})"]
    return lines


def tables(result):
    """All tables that there are figures for."""
    kinds = dict.fromkeys(record["kind"] for record in result["records"] if "contender" in record)
    return _short(result) + [
        times(result, part, what, kind) for part in ("engines", "rivals") for kind in kinds for what in WHATS
    ]


def _short(result):
    """Those that are no longer the more shapes there are."""
    found = [best(result, what) for what in WHATS] + [losses(result)]
    found += [ceilings(result), latencies(result), correctness(result), sanitizer(result)]
    return found + [classes(result, what) for what in WHATS]


def of_part(result, name):
    return [record for record in result["records"] if record["part"] == name]


def ceilings(result):
    rows = [[record["ceiling"], f"{record['value']:.0f} {record['unit']}"]
            for record in of_part(result, "ceilings") if "value" in record]  # fmt: skip
    return Table("Ceilings", ["of", "rate"], rows)


def latencies(result):
    rows = [[record["latency"], f"{record['microseconds']:.3f}"]
            for record in of_part(result, "latencies") if "microseconds" in record]  # fmt: skip
    return Table("Latencies: microseconds", ["of", "each"], rows)


def correctness(result):
    """By engine and kind: shapes that passed, and the worst error."""
    rows, groups = [], {}
    for record in of_part(result, "correctness"):
        groups.setdefault((record["engine"], record["kind"]), []).append(record)
    for engine, kind in sorted(groups, key=lambda key: key[0]):
        found = groups[engine, kind]
        passed = [record for record in found if "share" in record]
        worst = max(passed, key=lambda record: record["share"], default=None)
        refused = next((record["refused"] for record in found if "refused" in record), "")
        poisoned = sum(bool(record.get("poisoned")) for record in passed)
        rows.append([
            engine, kind, f"{len(passed)} of {len(found)}", f"{sum(map(verdict.is_wrong, found))}",
            "-" if worst is None else f"{worst['share']:.2f} ({worst.get('worst', 'any')} at {_name(worst['size'])})",
            f"{poisoned}", refused,
        ])  # fmt: skip
    title = "Correctness: outputs and gradients against float64, same bits twice; errors as shares of their limits"
    header = ["engine", "kind", "passed", "wrong", "worst error", "in poisoned memory", "refused"]
    return Table(title, header, rows)


def sanitizer(result):
    rows = []
    for record in of_part(result, "sanitizer"):
        says = record.get("wrong") or (f"clean ({record['clean']})" if "clean" in record else "not checked: "
                + str(record.get("refused") or record.get("failed")))  # fmt: skip
        rows.append([record.get("engine", "all"), record.get("tool", "all"), says])
    return Table("compute-sanitizer", ["engine", "tool", "found"], rows)


def times(result, part, what, kind):
    """Microseconds per step; a star where the contender's error is beyond the limit of that kind of numbers."""
    cells, columns = {}, {}
    for record in of_part(result, part):
        if (record.get("what"), record["kind"]) == (what, kind):
            columns[record["contender"]] = None
            beyond = "*" if (record.get("share_of_limit") or 0) > 1 else ""
            cell = f"{record['us_per_step']:.2f}{beyond}" if "us_per_step" in record else "failed"
            cells.setdefault(tuple(record["size"]), {})[record["contender"]] = cell
    columns = sorted(columns, key=lambda name: name.startswith("torch"))
    order = [size for name in sizes.CLASSES for size in cells if sizes.class_of(size) == name]
    rows = [[_name(size), *(cells[size].get(column, "-") for column in columns)] for size in order]
    title = f"{part}, {what}, {kind}: microseconds per time step (* error beyond the limit of its kind)"
    return Table(title, ["N,T,D,H", *columns], rows)


def draw(result, file):
    """The ratios by class as a plot, or False where there is nothing to draw, or no matplotlib."""
    groups = {}
    for what in WHATS:
        for (name, engine, kind, opponent), each in ratios(result, what).items():
            if engine == BEST:
                groups.setdefault((what, kind, opponent), {})[name] = [ratio for ratio, _ in each]
    if not groups:
        return False
    try:
        import io

        import matplotlib
        from matplotlib.figure import Figure

        from ..plots import MARKERS, METADATA, STYLE
    except ModuleNotFoundError:
        return False
    from .. import records

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 2.2 + 3 * len(WHATS)), layout="constrained")
        figure.suptitle(PLOT_TITLE + (" (a rehearsal: it means nothing)" if result["rehearsal"] else ""))
        for ax, what in zip(figure.subplots(len(WHATS), 1), WHATS, strict=True):
            for n, ((_, kind, opponent), found) in enumerate((k, v) for k, v in groups.items() if k[0] == what):
                places = [list(sizes.CLASSES).index(name) for name in found]
                ax.plot(places, [middle(each) for each in found.values()], marker=MARKERS[n % len(MARKERS)],
                        linewidth=0.4, label=f"{kind}, against {opponent}: median")  # fmt: skip
            ax.axhline(1, color="black", linewidth=1)
            ax.set_yscale("log", base=2)
            ax.set_xticks(range(len(sizes.CLASSES)), list(sizes.CLASSES), fontsize=7)
            ax.set_title(what)
            if ax.lines[1:]:
                ax.legend(fontsize=7)
        content = io.BytesIO()
        figure.savefig(content, format="svg", metadata=METADATA["svg"])
    records.replace(file, content.getvalue())
    return True
