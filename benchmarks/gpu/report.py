"""The report of a result: tables as Markdown, and a plot."""

from statistics import median as middle

from ..comparison import mean
from ..report import as_markdown
from ..tables import Table
from . import environment, sizes, verdict

WHATS = ("inference", "training")
PLOT_TITLE = "torch.nn.LSTM's time over that of the engine: above 1, the engine is faster"


def markdown(result):
    """Everything about a result."""
    parts = ["* " + "\n* ".join(about(result)) + "\n", *(as_markdown(table) for table in tables(result) if table.rows)]
    return "\n".join(parts)


def summary(result):
    """The same without the times themselves."""
    found = [ceilings(result), latencies(result), correctness(result), sanitizer(result)]
    found += [classes(result, what) for what in WHATS]
    return "\n".join([*(as_markdown(table) for table in found if table.rows), "* " + "\n* ".join(about(result))])


def about(result):
    """Where, when, with what, what is wrong and what is missing: lines of text."""
    machine = result["machine"]
    lines = ["A rehearsal on a CPU: no figure here means anything."] if result["rehearsal"] else []
    lines += [environment.line(record) for record in of_part(result, "environment")]
    lines += [f"{machine['cpu']}, {machine['cores']} cores; commit {machine['commit']}; {machine['date']}"]
    lines += [f"`{result['command']}`"]
    wrong = verdict.wrong(result)
    lines += [f"WRONG: {line}" for line in wrong] or ["no wrong numbers among those that were checked"]
    lines += [f"out of time: {count} pieces of {name}" for name, count in verdict.unfinished(result).items()]
    if others := {record["kind"]: None for record in result["records"] if record.get("cudnn") is False}:
        lines += [f"torch.nn.LSTM ran without cuDNN in {', '.join(others)}"]
    reasons = {}
    for line in verdict.unmeasured(result):
        where, _, reason = line.partition(": ")
        reasons.setdefault(reason, []).append(where)
    lines += [f"not measured: {reason} ({len(where)} times, first: {where[0]})" for reason, where in reasons.items()]
    return lines


def tables(result):
    """All tables that there are figures for."""
    found = [ceilings(result), latencies(result), correctness(result), sanitizer(result)]
    found += [classes(result, what) for what in WHATS]
    return found + [times(result, part, what) for part in ("rivals", "engines") for what in WHATS]


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
    for (engine, kind), found in groups.items():
        passed = [record for record in found if "share" in record]
        worst = max(passed, key=lambda record: record["share"], default=None)
        refused = next((record["refused"] for record in found if "refused" in record), "")
        poisoned = sum(bool(record.get("poisoned")) for record in passed)
        rows.append([
            engine, kind, f"{len(passed)} of {len(found)}", f"{sum('wrong' in record for record in found)}",
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
        rows.append([record["engine"], record["tool"], says])
    return Table("compute-sanitizer", ["engine", "tool", "found"], rows)


def ratios(result, what):
    """(class, engine, kind, opponent) -> [(ratio, size)]: torch's median over the engine's, of the same rounds.

    The opponents are torch eager, torch as a CUDA graph, and the better of the two.
    """
    found, races = {}, {}
    for record in of_part(result, "engines"):
        if record.get("what") == what and "median_s" in record:
            races.setdefault((tuple(record["size"]), record["kind"]), {})[record["contender"]] = record["median_s"]
    for (size, kind), medians in races.items():
        torch = {name: value for name, value in medians.items() if name.startswith("torch")}
        opponents = torch | ({"torch, the better": min(torch.values())} if torch else {})
        for engine, own in medians.items():
            if engine not in torch:
                for name, value in opponents.items():
                    key = sizes.class_of(size), engine, kind, name
                    found.setdefault(key, []).append((value / own, size))
    return found


def classes(result, what):
    """Geometric mean and worst of the ratios: a row per engine, kind and opponent, a column per class of sizes."""
    found, rows = ratios(result, what), []
    for engine, kind, opponent in dict.fromkeys(key[1:] for key in found):
        columns = [found.get((name, engine, kind, opponent), []) for name in sizes.CLASSES]
        every = [pair for column in columns for pair in column]
        rows.append([engine, kind, opponent, *map(_mean_and_worst, [*columns, every]), _name(min(every)[1])])
    header = ["engine", "kind", "against", *sizes.CLASSES, "all", "worst at N,T,D,H"]
    return Table(f"{what}: {PLOT_TITLE}; geometric mean / worst (shapes)", header, rows)


def _mean_and_worst(pairs):
    found = [ratio for ratio, _ in pairs]
    return f"{mean(found):.2f} / {min(found):.2f} ({len(found)})" if found else "-"


def times(result, part, what):
    """Microseconds per step; a star where the contender's error is beyond the limit of that kind of numbers."""
    cells, columns = {}, {}
    for record in of_part(result, part):
        if record.get("what") != what:
            continue
        column = record["kind"], record["contender"]
        columns[column] = None
        beyond = "*" if (record.get("share_of_limit") or 0) > 1 else ""
        cell = f"{record['us_per_step']:.2f}{beyond}" if "us_per_step" in record else "failed"
        cells.setdefault(tuple(record["size"]), {})[column] = cell
    order = [size for name in sizes.CLASSES for size in cells if sizes.class_of(size) == name]
    rows = [[_name(size), *(cells[size].get(column, "-") for column in columns)] for size in order]
    title = f"{part}, {what}: microseconds per time step (* error beyond the limit of its kind)"
    return Table(title, ["N,T,D,H", *(f"{kind} {name}" for kind, name in columns)], rows)


def draw(result, file):
    """The ratios by class as a plot, or False where there is nothing to draw, or no matplotlib."""
    groups = {}
    for what in WHATS:
        for (name, engine, kind, opponent), each in ratios(result, what).items():
            if opponent == "torch, the better":
                groups.setdefault((what, engine, kind), {})[name] = [ratio for ratio, _ in each]
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
            for n, ((_, engine, kind), found) in enumerate((k, v) for k, v in groups.items() if k[0] == what):
                places = [list(sizes.CLASSES).index(name) for name in found]
                ax.plot(places, [middle(each) for each in found.values()], marker=MARKERS[n % len(MARKERS)],
                        linewidth=0.4, label=f"{engine}, {kind}: median")  # fmt: skip
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


def _name(size):
    return ",".join(map(str, size))
