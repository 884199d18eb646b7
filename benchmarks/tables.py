"""Tables of the results of one run: titles, names of columns, and rows of text."""

from typing import NamedTuple

from .comparison import MEMORY, Comparison, mean, size_of, usable, value
from .problems import GROWTH, WHATS


class Table(NamedTuple):
    """A title, the names of the columns, and rows of text."""

    title: str
    header: list
    rows: list


def tables(records):
    """All tables that the records of one run have the data for."""
    run = Comparison(records)
    found = [summary(run), overview(run)]
    for what in run.whats():
        if sizes := run.standard(what):
            if run.others:
                found.append(ratios(run, sizes, what))
            found.append(times(run, sizes, what))
    found += [single_rows(run), *(growth(run, axis) for axis in run.axes()), memory(run), start(run)]
    return [table for table in found if table and table.rows]


def summary(run):
    """For each of ours and each kind of work: the best rival's ratio, its mean over the sizes, and the worst."""
    rows = []
    for own in (Comparison(run.records, base) for base in run.family):
        for what in (*run.whats(), *MEMORY):
            sizes = run.standard(what)
            small = [size for size in sizes if size[3] <= 256] if what == "step" else sizes
            judges, everybody = own.judges(what), own.taking_part(what, own.rivals)
            best_of = {", ".join(judges): judges}
            if set(judges) != set(everybody):
                best_of["every rival"] = everybody
            for label, among in best_of.items():
                parts = {what: sizes} | ({f"{what} (H <= 256)": small} if len(small) < len(sizes) else {})
                for part, chosen in parts.items():
                    if figures := _summary(own, what, chosen, among):
                        rows.append([own.base, part, label, *figures])
    title = "The best rival's time or memory over that of lstm_xp, size by size: above 1, lstm_xp is better"
    return Table(title, ["contender", "what", "best of", "sizes", "geometric mean", "worst", "at N,T,D,H"], rows)


def _summary(run, what, sizes, among):
    """Over some sizes: how many, geometric mean, worst, and where that is; nothing where nobody can be compared."""
    found = {size: best for size in sizes if (best := run.best(what, size, among))}
    if not found:
        return []
    worst = min(found, key=found.get)
    counted = f"{len(found)}" if len(found) == len(sizes) else f"{len(found)} of {len(sizes)}"
    return [counted, _number(mean([best.ratio for best in found.values()])), _number(found[worst].ratio), _name(worst)]


def overview(run):
    """The best rival's ratio at each size, for each kind of work."""
    whats = run.whats()
    sizes = list(dict.fromkeys(size for what in whats for size in run.standard(what)))
    best = [[run.best(what, size) for what in whats] for size in sizes]
    rows = [[_name(size), *map(_best, found)] for size, found in zip(sizes, best, strict=True) if any(found)]
    return Table(f"The best rival's time over that of {run.base}", ["N,T,D,H", *whats], rows)


def ratios(run, sizes, what):
    """Everybody's time over the base's; on top the geometric means."""
    found = [[run.ratio(name, what, size) for name in run.others] for size in sizes]
    rows = [[_name(size), *map(_number, row)] for size, row in zip(sizes, found, strict=True)]
    if len(sizes) > 1:
        rows.insert(0, ["geometric mean", *map(_mean, zip(*found, strict=True))])
    title = f"{what} ({WHATS[what]}): time over that of {run.base}; above 1, {run.base} is faster"
    return Table(title, ["N,T,D,H", *run.others], rows)


def times(run, sizes, what):
    """Time, spread, and share of the matrix products' rate."""
    rows = [[_name(size), *(cell(run.get(name, what, size)) for name in run.contenders)] for size in sizes]
    title = f"{what}: ms (quartiles), share of the matrix-product rate"
    return Table(title, ["N,T,D,H", *run.contenders], rows)


def single_rows(run):
    """One row at a time: microseconds per time step."""
    rows = []
    for what in run.whats():
        for size in (size for size in run.standard(what) if size[0] == 1):
            found = [run.get(name, what, size) for name in run.contenders]
            cells = [f"{record['us_per_step']:.2f}" if usable(record) else "-" for record in found]
            rows.append([what, _name(size), *cells])
    return Table("one row at a time (N = 1): microseconds per time step", ["what", "N,T,D,H", *run.contenders], rows)


def growth(run, axis):
    """Times over doublings, each with its ratio to the one before."""
    rows = []
    for what in run.whats():
        before = {}
        for size in GROWTH[axis]:
            row = [what, _name(size)]
            for name in run.contenders:
                time = value(run.get(name, what, size))
                last = before.get(name)
                row.append("-" if time is None else milliseconds(time) + (f" x{time / last:.2f}" if last else ""))
                before[name] = time
            rows.append(row)
    work = "x4.00 per doubling is how the work grows" if axis[0] == "H" else "x2.00 per doubling is linear"
    return Table(f"growth with {axis}: ms; {work}", ["what", "N,T,D,H", *run.contenders], rows)


def memory(run):
    """Peaks in MB."""
    rows = []
    for what in MEMORY:
        for size in run.sizes(what):
            peaks = [value(run.get(name, what, size)) for name in run.contenders]
            cells = ["-" if peak is None else f"{peak / 1e6:.1f}" for peak in peaks]
            rows.append([what.partition(" ")[2], _name(size), *cells, _best(run.best(what, size))])
    title = f"peak memory of a call, results included: MB; the best rival's over that of {run.base}"
    return Table(title, ["what", "N,T,D,H", *run.contenders, "best rival"], rows)


def start(run):
    """Seconds of a fresh process."""
    found = {record["contender"]: record for record in run.records if record["what"] == "start"}
    if not found:
        return None
    rows = []
    for name, key in (("import", "import_s"), ("import and first result", "first_result_s")):
        rows.append([name, *(f"{found[n][key]:.2f}" if usable(found.get(n)) else "-" for n in run.contenders)])
    size = _name(size_of(next(iter(found.values()))))
    return Table(f"a fresh process, inference at {size}: seconds", ["until", *run.contenders], rows)


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
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2 if value >= 0.0995 else 3
    return f"{value:.{digits}f}"


def _name(size):
    return ",".join(map(str, size))


def _number(ratio):
    return "-" if ratio is None else f"{ratio:.2f}"


def _best(best):
    return "-" if best is None else f"{best.ratio:.2f} {best.rival}"


def _mean(found):
    """With how many sizes it is the mean of, where some are missing."""
    known = [ratio for ratio in found if ratio is not None]
    part = f" ({len(known)} of {len(found)})" if 0 < len(known) < len(found) else ""
    return _number(mean(known)) + part
