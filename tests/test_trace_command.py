"""The command trace as a user meets it: pictures and figures, and every wrong input."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("safetensors")
pytest.importorskip("matplotlib")

from lstm_xp import LSTM, cli, saturation, traces, warmup, weights
from lstm_xp.commands import gate_plot, trace
from lstm_xp.training import checkpoints, model, runs
from lstm_xp.training.settings import Settings

# Older releases of Matplotlib call what newer ones of their own dependencies have renamed.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib.*")

MAGIC = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
D, H = 3, 5


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    """Compiled engines say on standard error that they compile; that shall not be while a test reads it."""
    warmup()


@pytest.fixture
def command(capsys):
    """Runs the command line in this process: exit status, standard output, standard error."""

    def run(*arguments):
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def refused(command, tmp_path):
    """Runs the command on what it must refuse: its one line, once nothing was written and nothing changed."""

    def run(*arguments):
        before = contents(tmp_path)
        status, printed, told = command("trace", *arguments)
        assert (status, printed) == (2, "")
        assert told.startswith("lstm-xp trace: ")
        assert told.count("\n") == 1
        assert contents(tmp_path) == before
        return told

    return run


@pytest.fixture
def language_model(tmp_path):
    """The directory of a run, as far as the command reads it."""
    settings = Settings(hidden=H, layers=2, embedding=4)
    parameters = model.init_parameters(np.random.default_rng(0), **settings.model_shape(), dtype="float32")
    (tmp_path / "run").mkdir()
    checkpoints.save_model(tmp_path / "run" / runs.MODEL, parameters, settings, step=0, test_bits={})
    return tmp_path / "run"


@pytest.fixture
def network(tmp_path):
    """The file of a bidirectional network of two layers, with weights that saturate some gates."""
    network = LSTM(D, H, num_layers=2, bidirectional=True)
    params = tuple(p._replace(Wx=8 * p.Wx) for p in network.init(seed=1))
    weights.save(tmp_path / "network.safetensors", network, params)
    return tmp_path / "network.safetensors"


@pytest.fixture
def signal(tmp_path):
    """The file of a signal (T, D)."""
    np.save(tmp_path / "signal.npy", np.random.default_rng(0).standard_normal((20, D)))
    return tmp_path / "signal.npy"


@pytest.fixture
def drawn(monkeypatch):
    """What the picture is made from, by name; the picture itself is left out."""
    names, got = ("kind", "title", "trace", "text", "place", "names", "shares", "units", "steps"), {}

    def draw(*arguments):
        got.update(zip(names, arguments, strict=True))
        return b"a picture"

    monkeypatch.setattr(gate_plot, "draw", draw)
    return got


def contents(directory):
    """The bytes of every file below a directory."""
    return {path: path.read_bytes() for path in Path(directory).rglob("*") if path.is_file()}


def same(trace, expected):
    pairs = zip(trace[:6], expected[:6], strict=True)
    return all(np.array_equal(found, wanted) for found, wanted in pairs)


# What is made


@pytest.mark.parametrize("suffix", MAGIC)
def test_a_text(command, language_model, tmp_path, suffix):
    text, out = tmp_path / "text.txt", tmp_path / f"gates{suffix}"
    text.write_text("one $x$\ttwo,\n" * 20)
    status, printed, told = command("trace", language_model, text, "--out", out)
    assert (status, told) == (0, "")
    assert out.read_bytes().startswith(MAGIC[suffix])
    assert f"written: {out}" in printed
    assert "saturation over 260 steps" in printed
    assert "layer 1 forward" in printed


@pytest.mark.parametrize(
    "options",
    [[], ["--show", 7], ["--units", 2], ["--layer", 0, "--direction", "reverse"], ["--start", 19, "--unit", "4,0"]],
)
def test_a_signal(command, network, signal, tmp_path, options):
    out = tmp_path / "gates.png"
    status, printed, told = command("trace", network, signal, "--out", out, *options)
    assert (status, told) == (0, "")
    assert out.read_bytes().startswith(MAGIC[".png"])
    assert "layer 0 reverse" in printed


def test_the_size_of_a_picture_is_bounded(command, language_model, tmp_path):
    from matplotlib.image import imread

    (tmp_path / "text").write_bytes(bytes(range(1, 256)) * 40)
    for show, widest in ((1, 1300), (120, 1800), (5000, 1800)):
        out = tmp_path / f"{show}.png"
        options = ["--show", show, "--length", 5000, "--units", 400]
        assert command("trace", language_model, tmp_path / "text", "--out", out, *options)[0] == 0
        height, width, _ = imread(out).shape
        assert 600 < width < widest
        assert 600 < height < 2500


@pytest.mark.parametrize("text", ["x", "naïve 漢字 😀 a\u0301\u200f\x00\x1b", b"\xff\xfe\xc3"], ids=ascii)
def test_any_text_is_drawn(command, language_model, tmp_path, text):
    """What the font lacks, control characters, bytes that are no UTF-8: no warning, no error."""
    (tmp_path / "text").write_bytes(text if isinstance(text, bytes) else text.encode())
    status, _, told = command("trace", language_model, tmp_path / "text", "--out", tmp_path / "gates.svg")
    assert (status, told) == (0, "")


def test_names_of_files_are_drawn_as_they_are(command, network, signal, tmp_path):
    odd = tmp_path / "$漢_{x}$ $.safetensors"
    odd.write_bytes(network.read_bytes())
    assert command("trace", odd, signal, "--out", tmp_path / "gates.png")[::2] == (0, "")


# What is drawn and printed


def test_the_gates_are_those_of_the_model(command, drawn, language_model, tmp_path):
    """Against the model's own forward pass."""
    data = b"some text, of which the first bytes are read"
    (tmp_path / "text").write_bytes(data)
    options = ["--out", tmp_path / "g.png", "--length", 12, "--layer", 0, "--show", 6, "--units", 3]
    assert command("trace", language_model, tmp_path / "text", *options)[0] == 0
    parameters, _ = checkpoints.load_model(language_model / runs.MODEL)
    tokens = np.frombuffer(data[:12], np.uint8)[None, :].astype(np.int64)
    _, _, cache = model.forward(parameters, tokens, None)
    layers = traces(cache.layers)
    assert same(drawn["trace"], layers[0])
    assert (drawn["text"], drawn["place"], drawn["units"], drawn["steps"]) == (data[:12], 0, 3, range(6))
    assert drawn["names"] == ["layer 0 forward", "layer 1 forward"]
    expected = [saturation(layer) for layer in layers]
    assert all(np.array_equal(found, wanted) for found, wanted in zip(drawn["shares"], expected, strict=True))
    assert (tmp_path / "g.png").read_bytes() == b"a picture"


@pytest.mark.parametrize(
    ("options", "steps", "read"),
    [
        (["--start", 3], range(3, 123), trace.LENGTH),
        (["--start", 1995], range(1995, 2115), 2115),
        (["--start", 2900], range(2900, 3000), 3000),
        (["--start", 1995, "--length", 2000], range(1995, 2000), 2000),
        (["--start", 2, "--show", 5, "--length", 4], range(2, 4), 4),
    ],
)
def test_the_steps_from_some_on(command, drawn, language_model, tmp_path, options, steps, read):
    """What lies before is read as well: the gates are those of the whole."""
    text = bytes(np.random.default_rng(0).integers(97, 123, 3000, dtype=np.uint8))
    (tmp_path / "text").write_bytes(text)
    assert command("trace", language_model, tmp_path / "text", "--out", tmp_path / "g.png", *options)[0] == 0
    assert (drawn["steps"], drawn["text"]) == (steps, text[:read])
    parameters, _ = checkpoints.load_model(language_model / runs.MODEL)
    _, _, cache = model.forward(parameters, np.frombuffer(text[:read], np.uint8)[None, :].astype(np.int64), None)
    assert same(drawn["trace"], traces(cache.layers)[1])


def test_units_that_are_named(command, drawn, network, signal, tmp_path):
    options = ["--out", tmp_path / "g.png", "--unit", "4,0,4,2", "--units", 2]
    assert command("trace", network, signal, *options)[0] == 0
    assert drawn["units"] == [4, 0, 2]


def test_text_of_the_command_line(command, drawn, language_model, tmp_path):
    out = tmp_path / "g.png"
    assert command("trace", language_model, "--text", "né", "--out", out)[0] == 0
    assert drawn["text"] == "né".encode()
    assert drawn["place"] == 1
    long = "ab" * 5000
    assert command("trace", language_model, "--text", long, "--out", out, "--overwrite")[0] == 0
    assert drawn["text"] == long[: trace.LENGTH].encode()


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_rows_and_directions_of_a_signal(command, drawn, tmp_path, suffix, dtype):
    network = LSTM(D, H, num_layers=2, bidirectional=True, time_major=True)
    params = network.init(dtype=dtype)
    weights.save(tmp_path / f"network{suffix}", network, params)
    x = np.random.default_rng(0).standard_normal((4, 9, D))
    np.save(tmp_path / "x.npy", x)
    arguments = ["trace", tmp_path / f"network{suffix}", tmp_path / "x.npy", "--out", tmp_path / "g.svg"]
    options = ["--row", 2, "--length", 7, "--layer", 1, "--direction", "reverse"]
    assert command(*arguments, *options)[0] == 0
    wide = dtype.replace("16", "32")
    params = tuple(p._replace(**{k: v.astype(wide) for k, v in p._asdict().items() if v is not None}) for p in params)
    _, _, cache = network.forward(params, x[2, :7, None, :].astype(wide))
    assert same(drawn["trace"], traces(cache)[3])
    assert drawn["place"] == 3
    assert drawn["text"] is None
    assert (drawn["kind"], drawn["steps"], drawn["units"]) == ("svg", range(7), trace.UNITS)


def test_a_reverse_network_and_a_variant(command, drawn, tmp_path):
    network = LSTM(D, H, reverse=True, coupled=True, proj_size=2)
    weights.save(tmp_path / "n.npz", network, network.init())
    np.save(tmp_path / "x.npy", np.ones((4, D), np.int16))
    status, printed, _ = command("trace", tmp_path / "n.npz", tmp_path / "x.npy", "--out", tmp_path / "g.png")
    assert status == 0
    assert "layer 0 reverse" in printed
    assert drawn["trace"].h.shape == (1, 4, 2)


def test_the_table_has_the_means(command, drawn, network, signal, tmp_path):
    _, printed, _ = command("trace", network, signal, "--out", tmp_path / "g.png")
    lines = printed.splitlines()
    assert lines[1].split() == ["i", "f", "o", "g"]
    for line, shares in zip(lines[2:6], drawn["shares"], strict=True):
        percents = [float(number) for number in re.findall(r"\d+\.\d", line)]
        means = [100 * float(side.mean()) for gate in shares for side in gate]
        assert percents == [float(f"{mean:.1f}") for mean in means]
        assert max(percents) > 1


def test_large_files_are_read_in_part(command, drawn, language_model, network, tmp_path):
    """Texts and signals far larger than memory, as far as the file system tells."""
    with open(tmp_path / "text", "wb") as file:
        file.write(b"abc")
        file.truncate(1 << 40)
    assert command("trace", language_model, tmp_path / "text", "--out", tmp_path / "g.png")[0] == 0
    assert len(drawn["text"]) == trace.LENGTH
    rows = 1 << 36
    header = np.lib.format.header_data_from_array_1_0(np.zeros((1, D))) | {"shape": (rows, D)}
    with open(tmp_path / "x.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + rows * D * 8)
    arguments = [network, tmp_path / "x.npy", "--out", tmp_path / "g.png", "--overwrite"]
    assert command("trace", *arguments)[0] == 0
    assert drawn["trace"].i.shape == (1, trace.LENGTH, H)
    for name in ("text", "x.npy"):
        os.truncate(tmp_path / name, 0)


def test_help_teaches(command):
    status, printed, _ = command("trace", "--help")
    assert status == 0
    for word in ("examples:", ".npy", "--text", "--out", "saturated", "--length", f"(default: {trace.LENGTH},"):
        assert word in " ".join(printed.split())


# What is refused


@pytest.mark.parametrize(
    ("out", "rule"),
    [
        ("gates.jpg", "suffix must be one of .png, .svg, .pdf; got .jpg"),
        ("gates", "suffix must be one of .png, .svg, .pdf; got none"),
        ("missing/gates.png", "there is no directory"),
        ("folder.png", "is a directory"),
        ("there.png", "there.png exists: choose another name, or give --overwrite"),
    ],
)
def test_wrong_destinations(refused, language_model, tmp_path, out, rule):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "there.png").write_bytes(b"precious")
    assert rule in refused(language_model, "--text", "abc", "--out", tmp_path / out)


def test_the_input_is_not_overwritten(refused, language_model, tmp_path):
    picture = tmp_path / "drawing.svg"
    picture.write_text("<svg/>")
    told = refused(language_model, picture, "--out", picture, "--overwrite")
    assert "is INPUT itself" in told


def test_overwriting_is_at_one_blow(command, refused, language_model, tmp_path, monkeypatch):
    out = tmp_path / "g.png"
    out.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", lambda *names: (_ for _ in ()).throw(OSError(28, "No space left", str(out))))
    told = refused(language_model, "--text", "abc", "--out", out, "--overwrite")
    assert "No space left" in told
    monkeypatch.undo()
    assert command("trace", language_model, "--text", "abc", "--out", out, "--overwrite")[0] == 0
    assert out.read_bytes().startswith(MAGIC[".png"])
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_wrong_models(refused, signal, tmp_path):
    out = ["--out", tmp_path / "g.png"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.safetensors").write_bytes(b"not this")
    for name, rule in (
        ("none.safetensors", "is not a file"),
        ("empty", "has no model.safetensors"),
        ("bad.safetensors", "bad.safetensors"),
        ("signal.npy", "the suffix must be one of"),
    ):
        assert rule in refused(tmp_path / name, signal, *out)


def test_pickles_are_not_read(command, signal, tmp_path):
    """How to convert one is told below, in lines to be copied."""
    (tmp_path / "model.pt").write_bytes(b"\x80\x04")
    status, printed, told = command("trace", tmp_path / "model.pt", signal, "--out", tmp_path / "g.png")
    assert (status, printed) == (2, "")
    assert "a pickle can run any code" in told
    assert not (tmp_path / "g.png").exists()


def test_wrong_texts(refused, language_model, signal, tmp_path):
    out = ["--out", tmp_path / "g.png"]
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "text.txt").write_bytes(b"abc")
    assert "give INPUT, a text file or a signal as .npy, or --text" in refused(language_model, *out)
    assert "not both" in refused(language_model, tmp_path / "text.txt", "--text", "abc", *out)
    assert "--text is empty" in refused(language_model, "--text", "", *out)
    assert "empty.txt is empty" in refused(language_model, tmp_path / "empty.txt", *out)
    assert "does not exist" in refused(language_model, tmp_path / "none.txt", *out)
    assert "is not a regular file" in refused(language_model, tmp_path, *out)
    assert "is a language model" in refused(language_model, signal, *out)
    assert "--layer 2: " in refused(language_model, "--text", "abc", "--layer", 2, *out)
    assert "--start 3 lies behind the end: 3 steps are read, counted from 0\n" in refused(
        language_model, "--text", "abc", "--start", 3, *out
    )
    assert "--start 10000000000000 lies behind the end: 3 steps are read" in refused(
        language_model, tmp_path / "text.txt", "--start", 10**13, *out
    )
    assert "2 steps are read, counted from 0: give a larger --length\n" in refused(
        language_model, "--text", "abc", "--start", 2, "--length", 2, *out
    )
    assert f"--unit {H}: " in refused(language_model, "--text", "abc", "--unit", f"0,{H}", *out)
    assert "has only forward" in refused(language_model, "--text", "abc", "--direction", "reverse", *out)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_does_not_hang(refused, language_model, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "is not a regular file" in refused(language_model, tmp_path / "pipe", "--out", tmp_path / "g.png")


@pytest.mark.parametrize(
    ("array", "rule"),
    [
        (np.zeros((4, D + 1)), f"with D = {D} and no side of 0; got (4, 4)"),
        (np.zeros(D), "must have shape (T, D) or (N, T, D)"),
        (np.zeros((0, D)), "no side of 0"),
        (np.zeros((2, 0, D)), "no side of 0"),
        (np.zeros((4, D), complex), "must hold real numbers; got complex128"),
        (np.full((4, D), "a"), "must hold real numbers"),
        (np.array([[0.0] * D, [np.nan] * D]), "not finite in float32, at step 1"),
        (np.full((1, D), 1e300), "not finite in float32, at step 0"),
    ],
    ids=["D", "axes", "T = 0", "T = 0 of 3", "complex", "text", "NaN", "overflow"],
)
def test_wrong_signals(refused, network, tmp_path, array, rule):
    np.save(tmp_path / "x.npy", array)
    assert rule in refused(network, tmp_path / "x.npy", "--out", tmp_path / "g.png")


def test_signals_that_are_none(refused, network, signal, tmp_path):
    out, path = ["--out", tmp_path / "g.png"], tmp_path / "x.npy"
    assert "reads no text" in refused(network, "--text", "abc", *out)
    assert "a NumPy file .npy" in refused(network, network, *out)
    assert "--row 1: " in refused(network, signal, "--row", 1, *out)
    np.save(path, np.full((2, D), None), allow_pickle=True)
    assert "is damaged" in refused(network, path, *out)
    whole = signal.read_bytes()
    damaged = [b"", b"abc", whole[:-1], whole[:40], whole.replace(b"(20, 3)", b"(-2, 3)")]
    damaged += [whole.replace(b"(20, 3)", b"(99, 3)"), whole.replace(b"(20, 3)", b"(20, 3")]
    for data in damaged:
        path.write_bytes(data)
        refused(network, path, *out)


@pytest.mark.parametrize(
    "options",
    [["--units", 0], ["--show", -1], ["--length", "x"], ["--direction", "up"], ["--start", -1], ["--unit", "1,"]],
)
def test_wrong_numbers(refused, language_model, tmp_path, options):
    assert "see lstm-xp trace --help" in refused(language_model, "--text", "a", "--out", tmp_path / "g.png", *options)


def test_without_matplotlib(refused, language_model, tmp_path, monkeypatch):
    from lstm_xp.commands import extras

    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "matplotlib" else name)
    told = refused(language_model, "--text", "abc", "--out", tmp_path / "g.png")
    assert "needs matplotlib: pip install matplotlib" in told
