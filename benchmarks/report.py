"""Tables from records: as text, as Markdown, and by rich on a terminal."""

from math import exp, log
from pathlib import Path
from typing import NamedTuple

from . import records as files
from .problems import GROWTH, WHATS

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


class Table(NamedTuple):
    """A title, the names of the columns, and rows of text."""

    title: str
    header: list
    rows: list


def tables(records):
    """All tables that the records of one run have the data for."""
    found = {(r["contender"], r["what"], size_of(r)): r for r in records}
    contenders = list(dict.fromkeys(r["contender"] for r in records))
    growing = {size for sizes in GROWTH.values() for size in sizes}
    sizes = list(dict.fromkeys(size_of(r) for r in records))
    whats = [what for what in WHATS if any(r["what"] == what for r in records)]
    standard = [size for size in sizes if size not in growing]
    result = [times(found, contenders, standard, what) for what in whats] if standard else []
    singles = [size for size in standard if size[0] == 1]
    if singles:
        result.append(steps(found, contenders, singles, whats))
    result += [
        growth(found, contender, axis, whats)
        for contender in contenders
        for axis in GROWTH
        if set(GROWTH[axis]) <= set(sizes)
    ]
    return result


def times(found, contenders, sizes, what):
    """One kind of work over all sizes: time, spread, share of the matrix products' rate, ratios to lstm_xp."""
    base, others = contenders[0], contenders[1:]
    header = ["N,T,D,H", *contenders, *(f"{name} / {base}" for name in others)]
    rows, ratios = [], {name: [] for name in others}
    for size in sizes:
        results = [found.get((name, what, size)) for name in contenders]
        row = [",".join(map(str, size)), *map(cell, results)]
        for name, result in zip(others, results[1:], strict=True):
            if usable(results[0]) and usable(result):
                ratios[name].append(result["median_s"] / results[0]["median_s"])
                row.append(f"{ratios[name][-1]:.2f}")
            else:
                row.append("-")
        rows.append(row)
    if others and len(sizes) > 1:
        means = [f"{exp(sum(map(log, values)) / len(values)):.2f}" if values else "-" for values in ratios.values()]
        rows.append(["geometric mean", *("" for _ in contenders), *means])
    return Table(f"{what} ({WHATS[what]}): ms (quartiles), share of the matrix-product rate", header, rows)


def steps(found, contenders, sizes, whats):
    """One row at a time: microseconds per time step."""
    rows = []
    for what in whats:
        for size in sizes:
            results = [found.get((name, what, size)) for name in contenders]
            values = [f"{result['us_per_step']:.2f}" if usable(result) else "-" for result in results]
            rows.append([what, ",".join(map(str, size)), *values])
    return Table("one row at a time (N = 1): microseconds per time step", ["what", "N,T,D,H", *contenders], rows)


def growth(found, contender, axis, whats):
    """Times over doublings of N or T, each with its ratio to the one before."""
    rows, before = [], {}
    for size in GROWTH[axis]:
        row = [",".join(map(str, size))]
        for what in whats:
            result = found.get((contender, what, size))
            row.append(cell(result))
            known = usable(result) and what in before
            row.append(f"{result['median_s'] / before[what]:.2f}" if known else "")
            if usable(result):
                before[what] = result["median_s"]
        rows.append(row)
    header = ["N,T,D,H", *(name for what in whats for name in (what, "times the last"))]
    return Table(f"growth with {axis}, {contender}: 2.00 per doubling is linear", header, rows)


def about(records):
    """Where, when and with what the records of one run were made: lines of text."""
    first, machine = records[0], records[0]["machine"]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, load {machine['load']:.1f} before; {machine['system']}; "
        f"{first['dtype']}; commit {machine['commit']}; {machine['date']}"
    ]
    rates = [record["gemm_gflops"] for record in records if record.get("gemm_gflops")]
    if rates:
        shapes = [f"{shape} {spread([rate[shape] for rate in rates])}" for shape in rates[0]]
        lines.append(f"matrix products by NumPy, GFLOP/s: {'; '.join(shapes)}; {pools(first.get('gemm_pools'))}")
    for contender in dict.fromkeys(record["contender"] for record in records):
        own = [record for record in records if record["contender"] == contender and record.get("versions")]
        if own:
            parts = [f"{name} {version}" for name, version in own[0]["versions"].items()]
            details = [f"{name} {value}" for name, value in (own[0].get("details") or {}).items()]
            lines.append(f"{contender}: {', '.join(parts + details)}; {pools(own[0].get('pools'))}")
    settings = [f"{name}={value}" for name, value in machine["settings"].items()]
    if settings:
        lines.append(f"thread settings: {' '.join(settings)}")
    lines += [f"left out: {name}: {reason}" for name, reason in machine.get("absent", {}).items()]
    failed = dict.fromkeys((r["contender"], r["what"], r["size"], r["failed"]) for r in records if r["failed"])
    lines += [f"not timed: {name} {what} {size}: {reason}" for name, what, size, reason in failed]
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


def size_of(record):
    """(N, T, D, H)"""
    return record["N"], record["T"], record["D"], record["H"]


def usable(record):
    """Whether there is a time."""
    return record is not None and not record["failed"]


def cell(record):
    """Time, quartiles, share."""
    if record is None:
        return "-"
    if record["failed"]:
        return "not timed"
    low, middle, high = (milliseconds(record[key]) for key in ("q1_s", "median_s", "q3_s"))
    return f"{middle} ({low}-{high}) {record['share_of_gemm']:.0%}"


def milliseconds(seconds):
    """Three digits, never an exponent."""
    value = 1e3 * seconds
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


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


def markdown(runs):
    """A section for each run: where it was made, how to repeat it, its tables."""
    sections = []
    for records in runs:
        lines = [*(f"* {line}" for line in about(records)), "", "```", records[0]["machine"]["command"], "```", ""]
        sections.append("\n".join(lines + [as_markdown(table) for table in tables(records)]))
    return "\n".join(sections)


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
