"""How the engines compare with torch.nn.LSTM: torch's median over an engine's, of the same rounds."""

from ..comparison import mean
from ..tables import Table
from . import sizes
from .contenders import RECORDED

WHATS = ("inference", "training")
TITLE = "torch.nn.LSTM's time over that of the engine: above 1, the engine is faster"
# Of the engines, the quickest at each shape: what `engine="auto"` takes once that is known.
BEST = "the best of ours"


def races(result, what):
    """(shape, kind) -> contender -> median."""
    found = {}
    for record in result["records"]:
        if record["part"] == "engines" and record.get("what") == what and "median_s" in record:
            key = tuple(record["size"]), record["kind"]
            found.setdefault(key, {})[record["contender"]] = record["median_s"]
    return found


def ratios(result, what):
    """(class, engine, kind, opponent) -> [(ratio, size)]; the engine may be `BEST`, the opponents are torch's modes.

    Calls in a CUDA graph are compared with calls in a CUDA graph, where there are any of ours.
    """
    found = {}
    for (size, kind), medians in races(result, what).items():
        ours = {name: value for name, value in medians.items() if not name.startswith("torch")}
        for opponent in medians.keys() - ours.keys():
            graph = opponent.endswith("graph") and any(name.endswith(RECORDED) for name in ours)
            alike = {name: value for name, value in ours.items() if name.endswith(RECORDED) == graph}
            if alike:
                alike = {BEST: min(alike.values()), **alike}
            for engine, own in alike.items():
                key = sizes.class_of(size), engine, kind, opponent
                found.setdefault(key, []).append((medians[opponent] / own, size))
    return dict(sorted(found.items(), key=lambda item: item[0][3]))


def best(result, what):
    """The best of ours by class of sizes: a row per kind and opponent."""
    title = f"{what}, {BEST} at each shape: {TITLE}; geometric mean / worst (shapes)"
    return _by_class(title, ratios(result, what), lambda engine: engine == BEST)


def classes(result, what):
    """Each engine by class of sizes: a row per engine, kind and opponent."""
    title = f"{what}: {TITLE}; geometric mean / worst (shapes)"
    return _by_class(title, ratios(result, what), lambda engine: engine != BEST)


def losses(result):
    """Where the best of ours is slower, the worst first: a row per kind of work, kind of numbers and opponent."""
    rows = []
    for what in WHATS:
        groups = {}
        for (_, engine, kind, opponent), pairs in ratios(result, what).items():
            if engine == BEST:
                groups.setdefault((kind, opponent), []).extend(pairs)
        for (kind, opponent), pairs in groups.items():
            lost = sorted(pair for pair in pairs if pair[0] < 1)
            shapes = "; ".join(f"{size_name(size)} ({ratio:.2f})" for ratio, size in lost)
            rows.append([what, kind, opponent, f"{len(lost)} of {len(pairs)}", shapes])
    return Table(f"Where {BEST} is slower: N,T,D,H (ratio)", ["work", "kind", "than", "shapes", "which"], rows)


def size_name(size):
    return ",".join(map(str, size))


def _by_class(title, found, wanted):
    rows = []
    for engine, kind, opponent in dict.fromkeys(key[1:] for key in found if wanted(key[1])):
        columns = [found.get((name, engine, kind, opponent), []) for name in sizes.CLASSES]
        every = [pair for column in columns for pair in column]
        rows.append([engine, kind, opponent, *map(_mean_and_worst, [*columns, every]), size_name(min(every)[1])])
    return Table(title, ["engine", "kind", "against", *sizes.CLASSES, "all", "worst at N,T,D,H"], rows)


def _mean_and_worst(pairs):
    found = [ratio for ratio, _ in pairs]
    return f"{mean(found):.2f} / {min(found):.2f} ({len(found)})" if found else "-"
