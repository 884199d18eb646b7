"""The report: tables from records as text, as Markdown, and by rich on a terminal; and where the records come from."""

import os
from pathlib import Path

from . import records as files
from .comparison import Comparison, work_of
from .tables import overview, summary, tables

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def about(records):
    """Where, when and with what the records of one run were made: lines of text."""
    first, machine = records[0], records[0]["machine"]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, load {machine['load']:.1f} before; {machine['system']}; "
        f"{first['dtype']} on {first['device']}; commit {machine['commit']}; {machine['date']}"
    ]
    rates = [record["gemm_gflops"] for record in records if record.get("gemm_gflops")]
    if rates:
        library = "CuPy" if first["device"] == "cuda" else "NumPy"
        shapes = [f"{shape} {spread([rate[shape] for rate in rates])}" for shape in rates[0]]
        lines.append(f"matrix products by {library}, GFLOP/s: {'; '.join(shapes)}; {pools(first.get('gemm_pools'))}")
    for contender in dict.fromkeys(record["contender"] for record in records):
        own = [record for record in records if record["contender"] == contender and record.get("versions")]
        if own:
            parts = [f"{name} {version}" for name, version in own[0]["versions"].items()]
            details = [f"{name} {value}" for name, value in (own[0].get("details") or {}).items()]
            if own[0].get("rounding"):
                details.append(f"rounds like {own[0]['rounding']}")
            lines.append(f"{contender}: {', '.join(parts + details)}; {pools(own[0].get('pools'))}")
    for words, key in (("thread settings", "settings"), ("taken out of the contenders' environment", "dropped")):
        variables = [f"{name}={value}" for name, value in machine.get(key, {}).items()]
        if variables:
            lines.append(f"{words}: {' '.join(variables)}")
    lines += [f"left out: {name}: {reason}" for name, reason in machine.get("absent", {}).items()]
    failed = {}
    for record in (record for record in records if record["failed"]):
        where = failed.setdefault((record["contender"], record["failed"]), {})
        where.setdefault(record["size"], []).append(work_of(record))
    for (name, reason), where in failed.items():
        groups = {}
        for size, whats in where.items():
            groups.setdefault(", ".join(whats), []).append(size)
        places = "; ".join(f"{whats} at {' '.join(at)}" for whats, at in groups.items())
        lines.append(f"not timed: {name}: {reason} ({places})")
    return lines


def pools(found):
    """Thread pools in words."""
    if found is None:
        return "thread pools unknown (threadpoolctl is not installed)"
    words = [
        " ".join(str(pool[key]) for key in ("internal_api", "version", "architecture") if pool.get(key))
        + f" with {pool['num_threads']} threads"
        for pool in found
    ]
    return ", ".join(words) or "no BLAS or OpenMP pool"


def spread(values):
    """The least and the greatest, as one number if they are alike."""
    low, high = round(min(values)), round(max(values))
    return f"{low}" if low == high else f"{low} to {high}"


def as_text(table):
    """A table for a terminal or a file, columns aligned."""
    widths = [max(map(len, column)) for column in zip(table.header, *table.rows, strict=True)]
    lines = [
        "  ".join(f"{text:{'<' if n == 0 else '>'}{width}}" for n, (text, width) in enumerate(zip(row, widths)))  # noqa: B905
        for row in (table.header, *table.rows)
    ]
    return "\n".join([table.title, *(line.rstrip() for line in lines), ""])


def as_markdown(table):
    """A table for a README."""
    lines = [table.header, ["---", *("---:" for _ in table.header[1:])], *table.rows]
    return "\n".join([f"**{table.title}**", "", *(f"| {' | '.join(line)} |" for line in lines), ""])


def show(records, stream):
    """Print one run: by rich where the stream is a terminal and rich is installed, as plain text elsewhere."""
    console = _console(stream)
    for table in tables(records):
        if console is None:
            print(as_text(table), file=stream)
        else:
            _print_rich(console, table)
    print("\n".join(about(records)), file=stream)


def _console(stream):
    if not stream.isatty():
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console(file=stream)


def _print_rich(console, table):
    from rich.table import Table as RichTable

    drawn = RichTable(title=table.title, title_justify="left")
    for n, name in enumerate(table.header):
        drawn.add_column(name, justify="left" if n == 0 else "right")
    for row in table.rows:
        drawn.add_row(*row)
    console.print(drawn)


def heading(records):
    """Where a run was made, and how to repeat it, as Markdown."""
    return "\n".join([*(f"* {line}" for line in about(records)), "", *_command(records)])


def _command(records):
    return ["```", records[0]["machine"]["command"], "```", ""]


def pictures(shown, beside):
    """Plots (title, path) as Markdown, with links from a file that stands in the folder `beside`."""
    return "".join(f"![{title}]({Path(os.path.relpath(path, beside)).as_posix()})\n\n" for title, path in shown)


def markdown(records, shown=(), beside=""):
    """Everything about one run: where it was made, how to repeat it, its plots, its tables."""
    parts = [heading(records), pictures(shown, beside or "."), *map(as_markdown, tables(records))]
    return "\n".join(part for part in parts if part)


def short(records, shown=(), beside="", whole=None):
    """What a README shows of one run: machine, command, the ratios and their means, plots, and where the rest is."""
    run = Comparison(records)
    parts = [f"{about(records)[0]}.\n", "\n".join(_command(records))]
    parts += [as_markdown(table) for table in (summary(run), overview(run)) if table.rows]
    parts.append(pictures(shown, beside or "."))
    if whole:
        parts.append(f"All of it: [{Path(whole).name}]({Path(os.path.relpath(whole, beside or '.')).as_posix()})\n")
    return "\n".join(part for part in parts if part)


def insert(file, text):
    """Put text between the two markers of a file."""
    try:
        old = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise files.BadFile(f"{file}: {getattr(error, 'strerror', None) or 'not a text'}") from None
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise files.BadFile(f"{file}: has no lines {BEGIN} and {END}, between which the figures would go")
    files.replace(file, f"{before}{BEGIN}\n\n{text}\n{END}{after}")
