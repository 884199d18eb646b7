"""The commands train and sample as a user meets them: whole runs, kills, interrupts, and every kind of wrong input."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("safetensors")
pytest.importorskip("matplotlib")
pytest.importorskip("rich")

from safetensors.numpy import load_file, save_file

from lstm_xp import cli
from lstm_xp.commands import train
from lstm_xp.libraries import Missing
from lstm_xp.training import checkpoints, curve, devices, runs, texts

# Older releases of Matplotlib call what newer ones of their own dependencies have renamed.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib.*")

SMALL = ["--hidden", "8", "--embedding", "4", "--batch", "4", "--length", "8"]


@pytest.fixture
def text(tmp_path):
    """A file of words in random order."""
    words = ["one", "two", "three", "four", "five", "six", "seven"]
    path = tmp_path / "words.txt"
    path.write_text(" ".join(np.random.default_rng(0).choice(words, 2000)))
    return path


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
def finished(command, text, tmp_path, tmp_path_factory):
    """The directory of a short run. It is made once; every test gets a copy, which names its own text."""
    out, kept = tmp_path / "finished", tmp_path_factory.getbasetemp() / "finished"
    if not kept.exists():
        assert command("train", text, *SMALL, "--steps", 20, "--out", kept)[0] == 0
    shutil.copytree(kept, out)
    state, settings, _, digests = checkpoints.load_checkpoint(out / runs.CHECKPOINT)
    checkpoints.save_checkpoint(out / runs.CHECKPOINT, state, settings, [str(text)], digests)
    return out


def contents(directory):
    """The bytes of every file in a directory."""
    return {path.name: path.read_bytes() for path in Path(directory).iterdir()}


def history(directory):
    """The records of a run, but for the time they took."""
    records = map(json.loads, (Path(directory) / runs.HISTORY).read_text().splitlines())
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


def start(*arguments):
    """The command line as a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    words = [sys.executable, "-m", "lstm_xp", *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process, status=0):
    """Wait for a process to end as it should; what it told on standard error."""
    _, told = process.communicate()
    assert process.returncode == status, told
    return told


def wait_for(condition, process):
    """Wait until something is so, while a process lives."""
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


# What a run does


def test_a_run_writes_its_files_and_tells_what_it_found(command, text, tmp_path):
    out = tmp_path / "run"
    status, printed, told = command("train", text, *SMALL, "--steps", 20, "--out", out)
    assert status == 0
    assert set(contents(out)) == {runs.CHECKPOINT, runs.MODEL, runs.HISTORY, runs.CURVE}
    for name in ("this model", "xz -9", "bzip2 -9"):
        assert re.search(rf"^  {name} +\d\.\d\d\d$", printed, re.MULTILINE)
    assert "a sample, at temperature" in printed
    assert "step 20" in told
    assert "bits/byte" in told
    assert len(history(out)) == 20
    assert contents(out)[runs.CURVE].startswith(b"\x89PNG")


def test_a_run_without_a_file_reads_the_standard_library(command, tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "TEST_BYTES", 500)
    status, printed, told = command("train", *SMALL, "--steps", 2, "--out", tmp_path / "run")
    assert status == 0
    assert "standard library" in told
    assert "(500 bytes)" in printed


@pytest.mark.parametrize("flags", [["--optimizer", "sgd"], ["--layers", "2"], ["--dtype", "float64"], ["--seed", "5"]])
def test_flags_change_the_weights(command, text, finished, tmp_path, flags):
    out = tmp_path / "other"
    assert command("train", text, *SMALL, *flags, "--steps", 20, "--out", out)[0] == 0
    mine, theirs = load_file(out / runs.MODEL), load_file(finished / runs.MODEL)
    assert set(mine) != set(theirs) or not np.array_equal(mine["output.W"], theirs["output.W"])
    if "float64" in flags:
        assert mine["output.W"].dtype == np.float64


def test_the_same_command_gives_the_same_weights(command, text, finished, tmp_path):
    assert command("train", text, *SMALL, "--steps", 20, "--out", tmp_path / "again")[0] == 0
    assert contents(finished)[runs.MODEL] == contents(tmp_path / "again")[runs.MODEL]
    assert history(finished) == history(tmp_path / "again")


def test_minutes_end_a_run(command, text, tmp_path):
    assert command("train", text, *SMALL, "--minutes", 0.002, "--out", tmp_path / "run")[0] == 0
    assert history(tmp_path / "run")[-1]["step"] >= 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--steps", 1], ["training 1 step of ", "trained 1 step in "]),
        (["--steps", 2], ["training 2 steps of ", "trained 2 steps in "]),
    ],
)
def test_one_is_singular(command, text, tmp_path, flags, words):
    told = command("train", text, *SMALL, *flags, "--out", tmp_path / "run")[2]
    assert all(word in told for word in words)


def test_one_minute_is_singular():
    for number, text in ((1.0, "1 minute"), (0.5, "0.5 minutes"), (10.0, "10 minutes")):
        assert train._counted(number, "minute") == text


def test_a_finished_run_can_be_made_longer(command, finished):
    status, _, _ = command("train", "--resume", "--out", finished, "--steps", 30)
    assert status == 0
    assert [record["step"] for record in history(finished)] == list(range(1, 31))


def test_a_finished_run_can_be_resumed_and_stays_the_same(command, finished):
    before = load_file(finished / runs.MODEL)
    assert command("train", "--resume", "--out", finished)[0] == 0
    after = load_file(finished / runs.MODEL)
    assert all(np.array_equal(after[name], value) for name, value in before.items())
    assert len(history(finished)) == 20


def test_the_command_line_starts_without_the_packages_of_its_commands():
    code = "import sys; from lstm_xp import cli; cli.build_parser('train'); print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert not {"matplotlib", "rich", "safetensors", "cupy"} & set(found.stdout.split())


# Kills and interrupts


def test_a_killed_run_ends_with_the_same_bits(text, tmp_path):
    arguments = ["train", text, *SMALL, "--steps", 1000, "--out"]
    began = time.monotonic()
    finish(start(*arguments, tmp_path / "whole"))
    lasted = time.monotonic() - began

    rng = np.random.default_rng()
    killed, resumed_at = tmp_path / "killed", []
    for _ in range(5):
        resume = (killed / runs.CHECKPOINT).exists()
        resumed_at.append(checkpoints.load_checkpoint(killed / runs.CHECKPOINT)[0].step if resume else None)
        process = start("train", "--resume", "--out", killed) if resume else start(*arguments, killed)
        try:
            process.wait(rng.uniform(0.2, 0.9) * lasted)
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
    resume = (killed / runs.CHECKPOINT).exists()
    finish(start("train", "--resume", "--out", killed) if resume else start(*arguments, killed))

    expected, found = load_file(tmp_path / "whole" / runs.MODEL), load_file(killed / runs.MODEL)
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=f"{name}, resumed at {resumed_at}")
    assert history(killed) == history(tmp_path / "whole"), resumed_at
    assert len(history(killed)) == 100


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_interrupted_run_saves_and_says_how_to_go_on(text, tmp_path, name, status):
    if os.name != "posix":
        pytest.skip("signals of POSIX")
    out = tmp_path / "run"
    process = start("train", text, *SMALL, "--steps", 100_000_000, "--out", out)
    checkpoint = out / runs.CHECKPOINT
    wait_for(lambda: checkpoint.exists() and checkpoints.load_checkpoint(checkpoint)[0].step > 0, process)
    process.send_signal(getattr(signal, name))
    told = finish(process, status)
    assert re.search(rf"to go on: .*train --resume --out {re.escape(str(out))}$", told, re.MULTILINE)
    assert "Traceback" not in told
    assert set(contents(out)) == {runs.CHECKPOINT, runs.MODEL, runs.HISTORY, runs.CURVE}
    steps = checkpoints.load_checkpoint(checkpoint)[0].step

    finish(start("train", "--resume", "--out", out, "--steps", steps + 10))
    assert checkpoints.load_checkpoint(checkpoint)[0].step == steps + 10


def test_a_resume_does_not_believe_the_history_file(command, finished):
    (finished / runs.HISTORY).write_text('{"step": 999, "half a li')
    assert command("train", "--resume", "--out", finished, "--steps", 22)[0] == 0
    assert [record["step"] for record in history(finished)] == list(range(1, 23))


# Sampling


def test_samples(command, finished):
    arguments = ("sample", finished, "--prompt", "one ", "--length", 60, "--seed", 1)
    status, first, _ = command(*arguments)
    assert status == 0
    assert first.startswith("one ")
    assert command(*arguments)[1] == first
    assert command(*arguments[:-1], 2)[1] != first
    assert command("sample", finished / runs.MODEL, *arguments[2:])[1] == first
    greedy = ("sample", finished, "--temperature", 0, "--length", 20, "--seed")
    assert command(*greedy, 1) == command(*greedy, 2)


def test_a_character_is_written_when_it_is_whole_and_broken_ones_are_replaced(capsys):
    from lstm_xp.commands.sample import write_text

    write_text("é".encode()[:1], iter("é".encode()[1:] + "€".encode() + b"\xff" + "é".encode()[:1]), sys.stdout)
    assert capsys.readouterr().out == "é€��\n"


def test_a_reader_that_leaves_early_is_no_error(finished):
    process = start("sample", finished, "--length", 100_000)
    assert process.stdout.read(1)
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    process.wait()


# What is refused. Each is one line that says what to do, exit status 2, and nothing is written.


@pytest.mark.skipif(os.name != "posix", reason="closed by the shell")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(text, finished, tmp_path, closed):
    """As a supervisor may start a program. What can be seen must have no traceback in it."""
    train = ["train", text, *SMALL, "--steps", "5", "--out", tmp_path / "run"]
    for words, status in (
        (train, 0),
        (["sample", finished, "--length", "20"], 0),
        (["info"], 0),
        (["sample", tmp_path / "nowhere"], 2),
        (["train", "--hiden=5"], 2),
    ):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
        shell = ["sh", "-c", f'exec "$0" "$@" {closed}', sys.executable, "-m", "lstm_xp", *map(str, words)]
        done = subprocess.run(shell, capture_output=True, text=True, env=environment)
        assert done.returncode == status, done
        assert "Traceback" not in done.stdout + done.stderr
    assert (tmp_path / "run" / "model.safetensors").exists()


def refused(result, *words):
    """Check a command's result for a one-line error that has these words, after what it told before it knew."""
    status, printed, told = result
    assert status == 2
    assert printed == ""
    *before, line = told.splitlines()
    assert all(early.startswith(("reading ", "text ", "model ", "training ")) for early in before)
    for word in words:
        assert word in line
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, ["does not exist", "check the name"]),
        (lambda path: path.touch(), ["is empty"]),
        (lambda path: path.mkdir(), ["is a directory", "name the text files in it"]),
        (lambda path: path.write_bytes(b"too short"), ["only 9 bytes", "at least 2000"]),
        (
            lambda path: path.write_bytes(b"x" * 2000),
            ["too few for --batch 4 times --length 512", "make these smaller"],
        ),
    ],
    ids=["missing", "empty", "directory", "short", "shorter than a batch"],
)
def test_text_files_that_will_not_do(command, tmp_path, make, words):
    make(tmp_path / "text")
    result = command("train", tmp_path / "text", "--batch", 4, "--length", 512, "--out", tmp_path / "run")
    refused(result, *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_no_text_file(command, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    refused(command("train", tmp_path / "pipe", "--out", tmp_path / "run"), "is not a regular file", "save the text")


def test_an_unreadable_file(command, text, tmp_path, monkeypatch):
    def deny(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", deny)
    refused(command("train", text, "--out", tmp_path / "run"), "cannot be read (Permission denied)", "permissions")


@pytest.mark.parametrize("flag", ["hidden", "layers", "embedding", "batch", "length", "steps", "threads"])
@pytest.mark.parametrize("value", ["0", "-3", "1.5", "nan", "many", ""])
def test_counts_that_are_none(command, text, tmp_path, flag, value):
    result = command("train", text, f"--{flag}={value}", "--out", tmp_path / "run")
    refused(result, f"--{flag}", "whole number of at least 1", "see lstm-xp train --help")


@pytest.mark.parametrize("flag", ["lr", "clip", "minutes"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "fast"])
def test_numbers_that_are_not_positive(command, text, tmp_path, flag, value):
    refused(command("train", text, f"--{flag}={value}", "--out", tmp_path / "run"), f"--{flag}", "must be a number")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--seed=-1"], ["--seed", "at least 0"]),
        (["--dtype=float16"], ["--dtype", "float32", "float64"]),
        (["--optimizer=lbfgs"], ["--optimizer", "adam", "sgd"]),
        (["--device=tpu"], ["--device", "cuda"]),
        (["--steps=5", "--minutes=5"], ["not allowed with"]),
        (["--hiden=5"], ["lstm-xp train: unrecognized arguments: --hiden=5; see lstm-xp train --help"]),
    ],
    ids=lambda value: value[0],
)
def test_other_impossible_flags(command, text, tmp_path, flags, words):
    refused(command("train", text, *flags, "--out", tmp_path / "run"), *words)


def test_no_command_and_an_unknown_one(command):
    refused(command(), "COMMAND", "--help")
    refused(command("trian"), "trian", "train", "sample")


def test_a_directory_that_holds_a_run_is_not_overwritten(command, text, finished):
    before = contents(finished)
    refused(command("train", text, *SMALL, "--out", finished), "holds another run", "--resume", "--out")
    assert contents(finished) == before


def test_an_out_that_is_a_file(command, text, tmp_path):
    refused(command("train", text, "--out", text), "is a file", "choose a directory")
    refused(command("train", text, "--out", text / "run"), "cannot be made", "choose another")


def test_other_files_in_the_directory_stay(command, text, tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    assert command("train", text, *SMALL, "--steps", 2, "--out", out)[0] == 0
    assert (out / "notes.txt").read_text() == "mine"


def test_a_resume_of_nothing(command, tmp_path):
    refused(command("train", "--resume", "--out", tmp_path / "none"), "is no directory", "without --resume")
    refused(command("train", "--resume", "--out", tmp_path), "has no checkpoint", "without --resume")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--hidden", "9"], ["--hidden 9 is at odds", "which has 8", "leave it out"]),
        (["--lr", "0.5"], ["--lr 0.5 is at odds"]),
        (["--seed", "3"], ["--seed 3 is at odds"]),
        (["--steps", "19"], ["has made 20 steps already"]),
        (["--minutes", "1e-9"], ["has lasted", "give more"]),
    ],
    ids=lambda value: value[0],
)
def test_a_resume_with_other_settings(command, finished, flags, words):
    before = contents(finished)
    refused(command("train", "--resume", "--out", finished, *flags), *words)
    assert contents(finished) == before


def test_a_resume_with_the_same_settings_is_fine(command, finished, text):
    assert command("train", text, "--resume", "--out", finished, *SMALL, "--steps", 21)[0] == 0


def test_a_resume_with_another_text(command, finished, text):
    text.write_text(text.read_text().replace("seven", "eight"))
    refused(command("train", "--resume", "--out", finished), "not those that the run", "another --out")
    text.unlink()
    refused(command("train", "--resume", "--out", finished), "does not exist")


def damage_truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def damage_header(path):
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])


def damage_text(path):
    path.write_text("not a model at all")


def damage_empty(path):
    path.write_bytes(b"")


def damage_foreign(path):
    save_file({"weight": np.zeros(3)}, path)


def damage_json(path):
    save_file({"weight": np.zeros(3)}, path, metadata={"lstm_xp": "{"})


def rewrite(path, change):
    """Change the tensors of a model or checkpoint, and leave the rest."""
    tensors = load_file(path)
    change(tensors)
    head = path.read_bytes()
    about = json.loads(head[8 : 8 + int.from_bytes(head[:8], "little")])["__metadata__"]
    save_file(tensors, path, metadata=about)


def damage_missing(path):
    rewrite(path, lambda tensors: tensors.pop(next(name for name in tensors if name.endswith("lstm0.Wh"))))


def damage_shape(path):
    rewrite(path, lambda tensors: tensors.update({n: v[:, :-1] for n, v in tensors.items() if n.endswith("lstm0.Wh")}))


def damage_dtype(path):
    rewrite(path, lambda tensors: tensors.update({n: v.astype("float64") for n, v in tensors.items()}))


DAMAGES = [
    (damage_truncate, ["is damaged, or no safetensors file"]),
    (damage_header, ["is damaged, or no safetensors file"]),
    (damage_text, ["is damaged, or no safetensors file"]),
    (damage_empty, ["is damaged, or no safetensors file"]),
    (damage_json, ["is damaged, or no safetensors file"]),
    (damage_foreign, ["format is unknown", "written by lstm-xp train"]),
    (damage_missing, ["lacks the tensor", "lstm0.Wh"]),
    (damage_shape, ["lstm0.Wh is float32 (8, 31)", "(8, 32)"]),
    (damage_dtype, ["is float64", "tell of float32"]),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGES, ids=lambda value: getattr(value, "__name__", ""))
def test_files_of_weights_that_will_not_do(command, finished, damage, words):
    model, checkpoint = finished / runs.MODEL, finished / runs.CHECKPOINT
    damage(model)
    damage(checkpoint)
    before = contents(finished)
    refused(command("sample", model), str(model), *words)
    refused(command("train", "--resume", "--out", finished), str(checkpoint), *words)
    assert contents(finished) == before


def test_a_checkpoint_is_no_model(command, finished):
    refused(command("sample", finished / runs.CHECKPOINT), "its format is lstm-xp checkpoint 1")


def test_a_model_that_is_not_there(command, tmp_path):
    refused(command("sample", tmp_path / "none"), "does not exist")
    refused(command("sample", tmp_path), "has no model.safetensors")


@pytest.mark.parametrize("flag", ["--length=0", "--temperature=-1", "--temperature=nan", "--seed=x"])
def test_impossible_flags_of_sample(command, finished, flag):
    refused(command("sample", finished, flag), flag.partition("=")[0], "must be a")


def test_cuda_without_a_gpu(command, text, tmp_path):
    if devices.namespace_of("auto")[1] == "cuda":
        pytest.skip("there is a GPU")
    refused(command("train", text, "--device", "cuda", "--out", tmp_path / "run"), "--device cuda", "--device cpu")
    assert not (tmp_path / "run").exists()


def test_cuda_without_cupy(command, text, tmp_path, monkeypatch):
    def missing(name):
        raise Missing("cupy is not installed")

    monkeypatch.setattr(devices, "open_library", missing)
    told = command("train", text, "--device", "cuda", "--out", tmp_path / "run")
    refused(told, "cupy is not installed", "pip install cupy-cuda12x (or cupy-cuda13x)")


def test_a_missing_package(command, text, tmp_path, monkeypatch):
    from lstm_xp.commands import extras

    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "rich" else name)
    refused(command("train", text, "--out", tmp_path / "run"), "needs rich", "pip install rich")


def test_a_full_disk_leaves_the_old_files(command, finished, monkeypatch):
    before = contents(finished)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    status, _, told = command("train", "--resume", "--out", finished, "--steps", 30)
    assert status == 2
    assert told.splitlines()[-1].endswith("No space left on device")
    assert contents(finished) == before


def test_the_curve_of_a_run_that_has_not_begun():
    assert curve.draw_curve([], {}, "nothing yet").startswith(b"\x89PNG")
