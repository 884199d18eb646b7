"""The rules of the house, read from the source: who imports whom, what is public, how long a file may be."""

import ast
import inspect
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from problems import engine_names

import lstm_xp
from lstm_xp import engines
from lstm_xp.engines import array_api, numpy_numba
from lstm_xp.libraries import LIBRARIES

PACKAGE = Path(lstm_xp.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
LINES = 450
FOREIGN = ("cupy", "torch", "jax", "dask", "numba")
modules = pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))

# Who may import whom: each name, the names before it and no other. Files of one folder may import each other.
ORDER = (
    "checks",
    "freezing",
    "cell",
    "activations",
    "variant_cells",
    "timeline",
    "records",
    "engines",
    "recording",
    "stages",
    "sequence",
    "libraries",
    "testing",
    "parameters",
    "variants",
    "masks",
    "directions",
    "configuration",
    "backpropagation",
    "streaming",
    "layers",
    "tracing",
    "files",
    "training",
    "weights",
    "onnx_operator",
    "commands",
    "cli",
    "__main__",
)


def imports(file, everywhere=True):
    """The modules that a file imports, absolute: at its top level, or everywhere in it."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if everywhere else tree.body
    parts = ["lstm_xp", *file.relative_to(PACKAGE).with_suffix("").parts]
    folder = parts[:-1]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*folder[: len(folder) - node.level + 1], *((node.module or "").split(".") if node.module else [])]
            yield from (".".join([*base, name.name]) for name in node.names)


def test_other_libraries_stay_out():
    """Importing the package and calling it on NumPy arrays imports no other array library, nor its own extras."""
    script = """
import sys
import numpy as np
import lstm_xp
N, T, D, H = 2, 5, 3, 4
x, h0, Wx, Wh, b = np.ones((N, T, D)), np.ones((N, H)), np.ones((D, 4 * H)), np.ones((H, 4 * H)), np.ones(4 * H)
h, cache = lstm_xp.lstm_forward(x, h0, Wx, Wh, b, lengths=[5, 2], reverse=True)
lstm_xp.lstm_backward(h, cache)
lstm_xp.lstm_forward(x, h0, Wx, Wh, b, training=False)
_, _, cache = lstm_xp.lstm_step_forward(x[:, 0], h0, h0, Wx, Wh, b)
lstm_xp.lstm_step_backward(h0, h0, cache)
lstm_xp.explain(x, h0, Wx, Wh, b)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
    options = {"capture_output": True, "text": True, "check": True, "cwd": PACKAGE.parent}
    subprocess.run([sys.executable, "-c", "import lstm_xp; lstm_xp.warmup()"], **options)  # or compiling is told of
    done = subprocess.run([sys.executable, "-c", script], **options)
    loaded = set(done.stdout.split())
    assert {"lstm_xp", "numpy", "array_api_compat"} <= loaded
    if not numpy_numba.obstacle():  # then it is what NumPy arrays run on
        loaded -= {"numba", "threadpoolctl", "scipy"}  # numba itself imports SciPy where it is installed
    unwanted = {*FOREIGN, "array_api_strict", "scipy", "matplotlib", "rich", "safetensors", "pytest", "ml_dtypes"}
    assert not loaded & unwanted
    assert done.stderr == ""


@modules
def test_other_libraries_are_imported_in_engines_only(file):
    if file.parent.name == "engines" and "_" in file.stem and file.stem != "__init__":
        allowed = {file.stem.partition("_")[0], file.stem.partition("_")[2]}
    elif file.parent.name == "compiled":
        allowed = {"numba"}
    else:
        allowed = set()
    roots = {name.partition(".")[0] for name in imports(file, everywhere=False)}
    assert not (roots & set(FOREIGN)) - allowed


@modules
def test_imports_go_one_way(file):
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    if parts == ("__init__",):
        return
    own = parts[0]
    assert own in ORDER, f"{own} has no place in the order of imports"
    allowed = set(ORDER[: ORDER.index(own) + 1])
    inner = {name.split(".")[1] for name in imports(file) if name.startswith("lstm_xp.") and name.count(".") >= 1}
    inner = {name for name in inner if (PACKAGE / f"{name}.py").exists() or (PACKAGE / name).is_dir()}
    assert inner <= allowed


def test_no_engine_for_cupy_imports_another():
    every = {f"lstm_xp.engines.{name}" for name in engines.names()}
    for name in engines.ENGINES["cupy"]:
        assert not every & set(imports(PACKAGE / "engines" / f"{name}.py")), name


def test_what_engines_for_cuda_are_made_of_has_an_order():
    """No two of these files import each other, not even by a third."""
    folder = PACKAGE / "engines" / "cuda"
    names = {file.stem for file in folder.glob("*.py")}
    parts = {name: [found.split(".")[3:] for found in imports(folder / f"{name}.py")] for name in names}
    used = {name: {part[0] for part in found if part} & names for name, found in parts.items()}
    assert used["products"] >= {"blas", "capture"}
    tuple(TopologicalSorter(used).static_order())  # raises where there is a cycle


@modules
def test_files_are_short(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= LINES


@modules
def test_every_file_says_what_it_is(file):
    assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))), "no docstring"


@modules
def test_the_order_of_gates_and_numbers_of_a_cache_are_not_relied_on(file):
    """Caches are read by field: no `cache[0]`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "cache":
            assert not isinstance(node.slice, ast.Constant), f"line {node.lineno}"


@modules
def test_nothing_is_decided_by_the_environment_or_pickled(file):
    names = {name.partition(".")[0] for name in imports(file)}
    assert not names & {"pickle", "dill", "cloudpickle", "joblib"}
    if "commands" not in file.parts and "training" not in file.parts:
        source = file.read_text(encoding="utf-8")
        assert "os.environ" not in source
        assert "getenv" not in source


def test_all_is_complete():
    public = {name for name, value in vars(lstm_xp).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert set(lstm_xp.__all__) == public


def test_public_functions_have_the_sections_of_their_docstrings():
    for name in ("lstm_forward", "lstm_backward", "lstm_step_forward", "lstm_step_backward"):
        text = inspect.getdoc(getattr(lstm_xp, name))
        sections = [f"{title}\n{'-' * len(title)}" for title in
                    ("Parameters", "Returns", "Raises", "See Also", "Notes", "References", "Examples")]  # fmt: skip
        places = [text.find(section) for section in sections]
        assert -1 not in places, name
        assert places == sorted(places), name
        for parameter in inspect.signature(getattr(lstm_xp, name)).parameters:
            assert parameter in text, f"{name}: {parameter}"


def test_signatures_of_the_public_functions():
    """The positional arguments are settled; everything else is by keyword."""
    signatures = {
        "lstm_step_forward": ["x", "prev_h", "prev_c", "Wx", "Wh", "b"],
        "lstm_step_backward": ["dnext_h", "dnext_c", "cache"],
        "lstm_forward": ["x", "h0", "Wx", "Wh", "b"],
        "lstm_backward": ["dh", "cache"],
        "explain": ["x", "h0", "Wx", "Wh", "b"],
    }
    for name, positional in signatures.items():
        parameters = inspect.signature(getattr(lstm_xp, name)).parameters.values()
        assert [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] == positional
        assert all(p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters)
    forward, explain = (inspect.signature(f).parameters for f in (lstm_xp.lstm_forward, lstm_xp.explain))
    assert forward == explain


@pytest.mark.parametrize("name", engines.names())
def test_engines_have_one_signature(name):
    engine = engines.load(name)
    for function in ("refuses", "declines", "forward", "backward"):
        found, expected = (inspect.signature(getattr(module, function)) for module in (engine, array_api))
        assert found == expected, function


def test_every_engine_file_is_in_the_table():
    files = {file.stem for file in (PACKAGE / "engines").glob("*_*.py") if file.stem != "__init__"}
    assert files == set(engines.names())


@pytest.mark.parametrize("name", LIBRARIES)
def test_every_library_has_an_engine_that_refuses_nothing(name):
    assert engine_names(name)[-1] == "array_api"
