"""The commands convert and inspect as a user meets them: whole ways from file to file, and every wrong input."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_weights import D, H, parameters_of, run, same

from lstm_xp import LSTM, State, cli, weights
from lstm_xp.commands import inspect
from lstm_xp.testing import assert_close
from lstm_xp.training import checkpoints, loop, model
from lstm_xp.training.settings import Settings
from lstm_xp.weights import containers

pytest.importorskip("safetensors")


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


def saved(path, network=None, format=None):
    network = network or LSTM(D, H, 2)
    weights.write(path, network, parameters_of(network), format=format)
    return path


def loaded_by(code, *arguments):
    """What a program in a process of its own prints: the names of its modules."""
    words = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(
        words, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )  # fmt: skip
    return set(done.stdout.split())


# Whole ways


def test_a_bidirectional_lstm_of_pytorch_runs_on_numpy(command, tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    torch.manual_seed(0)
    module = torch.nn.LSTM(D, H, num_layers=2, bidirectional=True, batch_first=True, dtype=torch.float64)
    source, destination = tmp_path / "torch.safetensors", tmp_path / "lstm.safetensors"
    save_file(module.state_dict(), source)
    status, printed, told = command("convert", source, destination)
    assert (status, told) == (0, "")
    assert printed == f"{destination}: 2 layers, two directions, 672 parameters of float64\n"

    network, params = weights.load(destination)
    x = np.random.default_rng(0).standard_normal((3, 6, D))
    with torch.no_grad():
        y, (h_n, c_n) = module(torch.asarray(x))
    found, state, _ = run(network, params, x)
    assert type(found) is np.ndarray
    for mine, theirs in ((found, y), (state.h, h_n), (state.c, c_n)):
        assert_close(mine, theirs.numpy(), steps=12)

    back = tmp_path / "back.safetensors"
    assert command("convert", destination, back, "--to", "pytorch")[0] == 0
    from safetensors.torch import load_file

    module.load_state_dict(load_file(back))
    with torch.no_grad():
        assert_close(module(torch.asarray(x))[0].numpy(), found, steps=12)


def test_a_model_of_keras_runs_on_numpy(command, tmp_path):
    """A file that Keras wrote, layer after layer, against what Keras computed."""
    pytest.importorskip("h5py")
    data = Path(__file__).with_name("data")
    witness, y = np.load(data / "keras_lstm.npz"), None
    for name in ("first", "both"):
        destination = tmp_path / f"{name}.npz"
        status, printed, told = command("convert", data / "keras_lstm.keras", destination, "--name", name)
        assert (status, told) == (0, "")
        assert printed.startswith(f"{destination}: 1 layer, ")
        network, params = weights.load(destination)
        y = run(network, params, witness["x"] if y is None else witness["first"])[0]
        assert y.dtype == witness[name].dtype == np.float32
        assert_close(y, witness[name], like=y, steps=6, name=name)


def test_the_converted_file_needs_no_framework(command, tmp_path):
    """Reading and running it imports NumPy, array-api-compat and safetensors, and no other package."""
    path = saved(tmp_path / "lstm.safetensors")
    code = (
        "import sys, dataclasses, numpy as np; from lstm_xp import weights;"
        "network, params = weights.load(sys.argv[1]);"
        "network = dataclasses.replace(network, engine='array_api');"  # numba compiles for a while
        "network.forward(params, np.ones((1, 2, 3)), training=False);"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    found = loaded_by(code, path)
    assert "safetensors" in found
    assert not {"torch", "h5py", "onnx", "keras", "ml_dtypes", "jax", "hypothesis"} & found


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".onnx", ".weights.h5"])
def test_from_format_to_format_and_back(command, tmp_path, suffix):
    if suffix in (".onnx", ".weights.h5"):
        pytest.importorskip({".onnx": "onnx", ".weights.h5": "h5py"}[suffix])
    source, there, back = (tmp_path / name for name in ("a.npz", f"b{suffix}", "c.safetensors"))
    network = LSTM(D, H, bidirectional=True)
    weights.save(source, network, parameters_of(network, asarray=np.float32))
    assert command("convert", source, there)[0] == 0
    assert command("convert", there, back)[0] == 0
    again, params = weights.load(back)
    assert (again.input_size, again.hidden_size, again.bidirectional) == (D, H, True)
    same(params, weights.load(source)[1])


def test_an_lstm_of_several_is_chosen_by_its_name(command, tmp_path):
    encoder, decoder = LSTM(D, H), LSTM(D, H, 2)
    arrays = weights.to_pytorch(encoder, parameters_of(encoder), prefix="model.encoder")
    arrays |= weights.to_pytorch(decoder, parameters_of(decoder), prefix="model.decoder")
    source, destination = tmp_path / "model.safetensors", tmp_path / "lstm.npz"
    containers.write(source, arrays)
    status, _, told = command("convert", source, destination)
    assert status == 2
    assert told.startswith(f"lstm-xp convert: {source}: 2 LSTMs found, choose one by name: ")
    assert command("convert", source, destination, "--name", "model.decoder")[0] == 0
    assert weights.load(destination)[0] == decoder
    status, printed, _ = command("inspect", source)
    assert status == 0
    assert "model.encoder: 1 layer, forward, 128 parameters of float64\n" in printed
    assert "model.decoder: 2 layers, forward, 272 parameters of float64\n" in printed
    printed = command("inspect", source, "--name", "model.encoder")[1]
    assert "decoder" not in printed


# inspect


def test_inspect_shows_what_is_there(command, tmp_path):
    path = saved(tmp_path / "lstm.safetensors", LSTM(D, H, 2, bidirectional=True, proj_size=2, clip=3.0))
    status, printed, told = command("inspect", path)
    assert (status, told) == (0, "")
    assert printed.splitlines() == [
        f"file           {path}",
        "format         lstm-xp (this package's own)",
        "order of gates i, f, o, g in the file; below, as here: i, f, o, g",
        "",
        "LSTM: 2 layers, two directions, 448 parameters of float64",
        "  LSTM(input_size=3, hidden_size=4, num_layers=2, bidirectional=True, proj_size=2, clip=3.0)",
        "  params[0] (layer 0, forward): Wx (3, 16)  Wh (2, 16)  b (16,)  Wp (4, 2)",
        "  params[1] (layer 0, reverse): Wx (3, 16)  Wh (2, 16)  b (16,)  Wp (4, 2)",
        "  params[2] (layer 1, forward): Wx (4, 16)  Wh (2, 16)  b (16,)  Wp (4, 2)",
        "  params[3] (layer 1, reverse): Wx (4, 16)  Wh (2, 16)  b (16,)  Wp (4, 2)",
    ]


def test_inspect_tells_the_order_of_the_file(command, tmp_path):
    path = saved(tmp_path / "torch.npz", format="pytorch")
    printed = command("inspect", path)[1]
    assert "format         pytorch (names of PyTorch's state dicts)\n" in printed
    assert "order of gates i, f, g, o in the file" in printed


def test_a_trained_model_and_its_checkpoint_are_inspected_and_converted(command, tmp_path):
    sizes = {"hidden": 8, "layers": 2, "embedding": 4}
    arrays = model.init_parameters(np.random.default_rng(0), **sizes, dtype="float32")
    run_settings = Settings(**sizes, batch=4, steps=1)
    checkpoints.save_model(tmp_path / "model.safetensors", arrays, run_settings)
    state = loop.initial_state(arrays, run_settings, np)
    checkpoints.save_checkpoint(tmp_path / "checkpoint.safetensors", state, run_settings, [], {})
    for name in ("model", "checkpoint"):
        status, printed, _ = command("inspect", tmp_path / f"{name}.safetensors")
        assert status == 0
        assert "format         lstm-xp-train (model or checkpoint of lstm-xp train)" in printed
        assert "LSTM: 2 layers, forward, 960 parameters of float32" in printed
        assert command("convert", tmp_path / f"{name}.safetensors", tmp_path / f"{name}.npz")[0] == 0
    network, params = weights.load(tmp_path / "model.npz")
    assert network == LSTM(4, 8, 2)
    for k, p in enumerate(params):
        assert all(np.array_equal(v, arrays[f"lstm{k}.{name}"]) for name, v in zip(("Wx", "Wh", "b"), p, strict=False))
    same(weights.load(tmp_path / "checkpoint.npz")[1], params)
    status, _, told = command("convert", tmp_path / "model.npz", tmp_path / "a.safetensors", "--to", "lstm-xp-train")
    assert (status, told.strip()) == (
        2,
        f"lstm-xp convert: {tmp_path / 'a.safetensors'}: files of the format lstm-xp-train cannot be written.",
    )


def test_a_trained_model_with_a_layer_missing(command, tmp_path):
    path = tmp_path / "model.safetensors"
    arrays = {"lstm0.Wx": np.ones((D, 4 * H)), "lstm0.Wh": np.ones((H, 4 * H)), "lstm0.b": np.ones(4 * H)}
    for missing in arrays:
        containers.write(path, {k: v for k, v in arrays.items() if k != missing}, {"format": checkpoints.MODEL_FORMAT})
        status, _, told = command("inspect", path)
        assert status == 2
        assert "is missing" in told
        assert told.count("\n") == 1


# Every wrong input: one line, exit status 2, nothing written


def wrong(tmp_path):
    good, torch = saved(tmp_path / "good.npz"), saved(tmp_path / "torch.safetensors", format="pytorch")
    (tmp_path / "cut.npz").write_bytes(good.read_bytes()[:100])
    (tmp_path / "cut.safetensors").write_bytes(torch.read_bytes()[:100])
    (tmp_path / "text.safetensors").write_text("hello, world")
    containers.write(tmp_path / "none.safetensors", {"linear.weight": np.ones((2, 2))})
    saved(tmp_path / "peepholes.npz", LSTM(D, H, peepholes=True))
    new = tmp_path / "new.npz"
    return {
        ("convert", good, torch): "exists: choose another name, or give --overwrite",
        ("convert", tmp_path / "nowhere.npz", new): "No such file or directory",
        ("convert", tmp_path, new): "the suffix must be one of .h5, .keras, .npz, .onnx, .safetensors; got none",
        ("convert", tmp_path / "cut.npz", new): "damaged, or no .npz file",
        ("convert", tmp_path / "cut.safetensors", new): "cut short",
        ("convert", tmp_path / "text.safetensors", new): "cut short, or no safetensors file",
        ("convert", tmp_path / "none.safetensors", new): "no LSTM found: no tensor is called weight_hh_l0, or",
        ("inspect", tmp_path / "none.safetensors"): "no LSTM found (format pytorch: names of PyTorch's state dicts)",
        ("convert", good, tmp_path / "new.txt"): "the suffix must be one of",
        ("convert", good, tmp_path / "new.pt"): "pickles are never written. PyTorch reads .safetensors by",
        ("convert", good, new, "--to", "onnx"): "the suffix must be .onnx for the format onnx; got .npz",
        ("convert", good, tmp_path / "new.keras"): "of Keras's files, those of weights alone can be written",
        (
            "convert",
            good,
            tmp_path / "no" / "new.npz",
        ): f"new.npz: the folder {tmp_path / 'no'} does not exist",
        ("convert", good, new, "--name", "encoder"): "no LSTM is called 'encoder'; found: ''",
        ("convert", good, new, "--from", "caffe"): "invalid choice: 'caffe'",
        ("convert", good, new, "--from", "pytorch"): "no LSTM found",
        ("convert", good, tmp_path / "new.onnx", "--to", "pytorch"): "the suffix must be one of .safetensors, .npz",
        ("convert", tmp_path / "peepholes.npz", new, "--to", "pytorch"): "cannot hold a network with peepholes=True",
        ("convert", good): "the following arguments are required: DST",
        ("inspect", tmp_path / "nowhere.safetensors"): "No such file or directory",
    }


@pytest.mark.parametrize("case", range(20))
def test_wrong_input_is_told_in_one_line(command, tmp_path, case):
    cases = wrong(tmp_path)
    assert len(cases) == 20
    arguments, message = list(cases.items())[case]
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    status, printed, told = command(*arguments)
    assert status == 2
    assert printed == ""
    assert message in told
    assert told.startswith(f"lstm-xp {arguments[0]}: ")
    assert told.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_overwrite(command, tmp_path):
    source, destination = saved(tmp_path / "a.npz"), saved(tmp_path / "b.npz", LSTM(D, H))
    assert command("convert", source, destination, "--overwrite")[0] == 0
    assert weights.load(destination)[0] == LSTM(D, H, 2)
    assert command("convert", source, destination, "--to", "pytorch", "--overwrite")[0] == 0
    assert weights.format_of(destination) == "pytorch"


def test_the_source_is_never_replaced(command, tmp_path):
    """It may hold more than the LSTM."""
    source, there, hard, soft = (tmp_path / f"{name}.npz" for name in ("a", "b", "hard", "soft"))
    saved(source)
    there.write_bytes(source.read_bytes())
    hard.hardlink_to(source)
    soft.symlink_to(source)
    for destination in (source, tmp_path / ".." / tmp_path.name / "a.npz", hard, soft):
        for flags in ((), ("--overwrite",)):
            status, printed, told = command("convert", source, destination, *flags)
            assert (status, printed) == (2, "")
            assert told == f"lstm-xp convert: {destination} is the file to read itself: choose another name for DST\n"
            assert source.read_bytes() == there.read_bytes()


# What is no part of the LSTM


def with_head(path, prefix="encoder.lstm", **others):
    network = LSTM(D, H)
    arrays = weights.to_pytorch(network, parameters_of(network), prefix=prefix)
    containers.write(path, arrays | {"out.bias": np.ones(2), "out.weight": np.ones((2, H))} | others)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_what_is_left_out_is_named(command, tmp_path, suffix):
    source = with_head(tmp_path / f"a{suffix}")
    for name in (None, "encoder.lstm"):
        assert sorted(weights.others(source, name)) == ["out.bias", "out.weight"]
    status, printed, told = command("convert", source, tmp_path / "b.npz")
    assert (status, told) == (0, "")
    assert printed.splitlines()[1:] == ["left out: out.bias, out.weight"]
    assert command("inspect", source)[1].endswith("\n\nother tensors: out.bias, out.weight\n")
    assert "left out" not in command("convert", tmp_path / "b.npz", tmp_path / "c.npz")[1]
    assert "other tensors" not in command("inspect", tmp_path / "b.npz")[1]


def test_many_names_are_shortened(command, tmp_path):
    many = {f"layer{k:02}.weight": np.ones(1) for k in range(30)}
    printed = command("convert", with_head(tmp_path / "a.safetensors", **many), tmp_path / "b.npz")[1]
    last = printed.splitlines()[-1]
    assert last.startswith("left out: layer00.weight, layer01.weight, ")
    assert last.endswith(", ... (32 in all)")
    assert len(last) < 200


def test_an_lstm_that_was_not_chosen_is_left_out(command, tmp_path):
    network = LSTM(D, H)
    other = weights.to_pytorch(network, parameters_of(network), prefix="decoder")
    source = with_head(tmp_path / "a.safetensors", **other)
    printed = command("convert", source, tmp_path / "b.npz", "--name", "encoder.lstm")[1]
    assert "decoder.weight_hh_l0" in printed
    assert sorted(weights.others(source)) == ["out.bias", "out.weight"]
    with pytest.raises(ValueError, match="no LSTM is called 'nobody'"):
        weights.others(source, "nobody")


def test_a_state_is_left_out(command, tmp_path):
    network, source = LSTM(D, H), tmp_path / "a.npz"
    state = State(np.zeros((1, 2, H)), np.zeros((1, 2, H)))
    weights.save(source, network, parameters_of(network), state=state)
    assert command("convert", source, tmp_path / "b.npz")[1].endswith("\nleft out: state.h, state.c\n")


def test_what_is_left_out_of_files_of_keras_and_onnx(command, tmp_path):
    """Keras: h5py alone; ONNX: the package onnx alone."""
    pytest.importorskip("h5py")
    pytest.importorskip("onnx")
    data = Path(__file__).with_name("data")
    found = weights.others(data / "keras_lstm.keras", "first")
    assert any(name.startswith("layers/bidirectional/") for name in found)
    assert not any(name.startswith("layers/lstm/cell/vars") for name in found)
    assert not any("cell/vars" in name for name in weights.others(data / "keras_lstm.keras"))
    assert weights.others(data / "torch_lstm.onnx") == []

    import onnx

    model = onnx.load(data / "torch_lstm.onnx")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(2, "float32"), "out.bias"))
    onnx.save(model, tmp_path / "a.onnx")
    printed = command("convert", tmp_path / "a.onnx", tmp_path / "a.npz")[1]
    assert printed.endswith("\nleft out: out.bias\n")


# The prefix of names


def test_the_prefix_of_names(command, tmp_path):
    source, there = with_head(tmp_path / "a.safetensors"), tmp_path / "b.npz"
    for flags, prefix in (
        ((), "encoder.lstm"),  # that of the source
        (("--prefix", "rnn"), "rnn"),
        (("--prefix", ""), ""),
    ):
        assert command("convert", source, there, "--to", "pytorch", "--overwrite", *flags)[0] == 0
        assert weights.names(there) == [prefix]
        same(weights.read(there)[1], weights.read(source)[1])
    own = saved(tmp_path / "own.npz")
    assert command("convert", own, there, "--to", "pytorch", "--overwrite")[0] == 0
    assert weights.names(there) == [""]
    assert command("convert", own, there, "--to", "pytorch", "--overwrite", "--prefix", "rnn.")[0] == 0
    assert weights.names(there) == ["rnn"]


def test_a_prefix_that_cannot_be(command, tmp_path):
    source, there = saved(tmp_path / "a.npz"), tmp_path / "b.npz"
    assert command("convert", source, there, "--prefix", "rnn") == (
        2,
        "",
        f"lstm-xp convert: {there}: files of the format lstm-xp have no prefix, those of pytorch do; got 'rnn'.\n",
    )
    network = LSTM(D, H)
    for prefix in ("a\nb", 3, ".", "a.."):
        with pytest.raises(ValueError, match="prefix must be a printable text, with a dot at its end at most; got"):
            weights.write(there, network, parameters_of(network), format="pytorch", prefix=prefix)
    assert not there.exists()


def test_pickles_come_with_the_way_out(command, tmp_path):
    for name in ("model.pt", "model.pth", "pytorch_model.bin"):
        status, _, told = command("convert", tmp_path / name, tmp_path / "new.npz")
        assert status == 2
        assert "so it is never read" in told
        assert "weights_only=True" in told


def test_a_missing_package_is_named(command, tmp_path, monkeypatch):
    path = saved(tmp_path / "a.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert command("convert", path, tmp_path / "b.npz") == (
        2, "", "lstm-xp convert: this needs safetensors: pip install safetensors\n"
    )  # fmt: skip


def test_the_commands_start_without_the_packages_of_the_formats():
    code = "import sys; from lstm_xp import cli; cli.build_parser('convert'); print(*sys.modules)"
    assert not {"safetensors", "h5py", "onnx", "torch", "matplotlib", "rich"} & loaded_by(code)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("words", [["inspect", "none.npz"], ["inspect"], ["inspect", "none.npz", "--nme=a"]])
def test_the_status_is_the_same_where_the_error_cannot_be_written(words):
    program = [sys.executable, "-c", "import sys; from lstm_xp import cli; sys.exit(cli.main())", *words]
    reader, broken = os.pipe()
    os.close(reader)
    for stream in (os.open("/dev/full", os.O_WRONLY), broken):
        done = subprocess.run(program, stdout=subprocess.DEVNULL, stderr=stream, cwd=Path(__file__).parents[1])
        os.close(stream)
        assert done.returncode == 2


def test_an_interruption_has_its_status_where_it_cannot_be_told(monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(inspect, "run", lambda args: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(write=full, flush=full))
    assert cli.main(["inspect", "none.npz"]) == 130
