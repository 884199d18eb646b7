"""The parts of a training run: every gradient, every formula, every promise about text and files."""

import itertools
import math
import os

import numpy as np
import pytest

from lstm_xp import State
from lstm_xp.libraries import to_numpy
from lstm_xp.testing import assert_close, check_gradients
from lstm_xp.training import (
    batches,
    checkpoints,
    evaluation,
    loop,
    losses,
    model,
    optimizers,
    sampling,
    schedules,
    texts,
)
from lstm_xp.training.errors import UserError
from lstm_xp.training.settings import Settings

SHAPE = {"hidden": 4, "layers": 2, "embedding": 3}
N, T = 2, 5


def random_parameters(rng, dtype="float64"):
    """Every parameter random, biases too, so that no gradient is zero by symmetry."""
    shapes = model.parameter_shapes(**SHAPE)
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def random_state(rng, batch=N):
    return State(*(rng.standard_normal((SHAPE["layers"], batch, SHAPE["hidden"])) for _ in "hc"))


def in_library(lib, tree):
    """Arrays of a dict, or of a state, in a library."""
    if isinstance(tree, dict):
        return {name: lib.asarray(value) for name, value in tree.items()}
    return State(*map(lib.asarray, tree))


# The model and the loss


def test_model_gradients():
    rng = np.random.default_rng(1)
    tokens, state = rng.integers(0, 256, (N, T)), random_state(rng)

    def forward(**parameters):
        logits, _, cache = model.forward(parameters, tokens, state)
        return (logits,), cache

    parameters = random_parameters(rng)
    errors = check_gradients(forward, lambda d, cache: model.backward(*d, cache), parameters)
    assert set(errors) == set(parameters)


def test_any_array_library_gives_the_same_gradients(lib):
    rng = np.random.default_rng(13)
    parameters, state, tokens = random_parameters(rng), random_state(rng), rng.integers(0, 256, (N, T + 1))

    def gradients(parameters, tokens, state):
        logits, _, cache = model.forward(parameters, tokens[:, :-1], state)
        loss, loss_cache = losses.cross_entropy_forward(logits, tokens[:, 1:])
        return loss, model.backward(losses.cross_entropy_backward(loss_cache), cache)

    loss, found = gradients(in_library(lib, parameters), lib.asarray(tokens), in_library(lib, state))
    expected_loss, expected = gradients(parameters, tokens, state)
    like = in_library(lib, parameters)
    assert_close(loss, expected_loss, like=like["output.b"], steps=T)
    for name, gradient in found.items():
        assert_close(gradient, expected[name], like=like[name], kind="gradient", steps=T, name=name)


def test_cross_entropy_gradient():
    rng = np.random.default_rng(2)
    targets = rng.integers(0, 256, (N, T))

    def forward(logits):
        loss, cache = losses.cross_entropy_forward(logits, targets)
        return (loss,), cache

    def backward(cotangents, cache):
        return {"logits": cotangents[0] * losses.cross_entropy_backward(cache)}

    check_gradients(forward, backward, {"logits": rng.standard_normal((N, T, 256))})


def test_cross_entropy_is_the_negative_log_likelihood_and_cannot_overflow():
    rng = np.random.default_rng(3)
    logits, targets = rng.standard_normal((N, T, 256)), rng.integers(0, 256, (N, T))
    expected = -np.mean(
        [
            math.log(math.exp(z[y]) / sum(map(math.exp, z)))
            for z, y in zip(logits.reshape(-1, 256), targets.ravel(), strict=True)
        ]
    )
    assert_close(losses.cross_entropy_forward(logits, targets)[0], expected)
    assert_close(losses.cross_entropy_forward(logits + 1e5, targets)[0], expected, steps=10**12)
    huge = np.zeros((1, 256))
    huge[0, 7] = 1e300
    assert losses.cross_entropy_forward(huge, np.array([7]))[0] == 0


def test_a_text_in_pieces_is_the_same_as_whole():
    rng = np.random.default_rng(4)
    parameters, state = random_parameters(rng), random_state(rng)
    tokens = rng.integers(0, 256, (N, T))
    whole, last, _ = model.forward(parameters, tokens, state)
    first, between, _ = model.forward(parameters, tokens[:, :2], state, training=False)
    second, end, _ = model.forward(parameters, tokens[:, 2:], between, training=False)
    assert_close(np.concatenate([first, second], axis=1), whole, steps=T)
    for found, expected in zip(end, last, strict=True):
        assert_close(found, expected, steps=T)


def test_streaming_is_the_same_as_whole():
    rng = np.random.default_rng(5)
    parameters, state = random_parameters(rng), random_state(rng, batch=1)
    tokens = rng.integers(0, 256, (1, T))
    whole, _, _ = model.forward(parameters, tokens, state)
    for t in range(T):
        logits, state = sampling.step(parameters, model.layers_of(parameters), int(tokens[0, t]), state)
        assert_close(logits, whole[:, t], steps=T)


def test_initial_parameters():
    parameters = model.init_parameters(np.random.default_rng(0), **SHAPE, dtype="float32")
    assert {name: value.shape for name, value in parameters.items()} == model.parameter_shapes(**SHAPE)
    assert {value.dtype for value in parameters.values()} == {np.dtype("float32")}
    H = SHAPE["hidden"]
    np.testing.assert_array_equal(parameters["lstm1.b"], np.repeat([0, 1, 0, 0], H))
    again = model.init_parameters(np.random.default_rng(0), **SHAPE, dtype="float32")
    assert all(np.array_equal(again[name], value) for name, value in parameters.items())


# Optimisers and schedule


def test_adam(lib):
    rng = np.random.default_rng(6)
    p, gradients = rng.standard_normal(3), rng.standard_normal((4, 3))
    beta1, beta2, eps, lr = 0.9, 0.99, 1e-8, 0.1
    expected = []
    for value, history in zip(p, gradients.T, strict=True):
        m = v = 0.0
        for k, g in enumerate(history, 1):
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
            value -= lr * (m / (1 - beta1**k)) / (math.sqrt(v / (1 - beta2**k)) + eps)
        expected.append(value)
    check_optimizer(optimizers.Adam(beta1, beta2, eps), lib, p, gradients, lr, expected)


def test_sgd_with_momentum(lib):
    rng = np.random.default_rng(7)
    p, gradients = rng.standard_normal(3), rng.standard_normal((4, 3))
    expected = []
    for value, history in zip(p, gradients.T, strict=True):
        m = 0.0
        for g in history:
            m = 0.5 * m + g
            value -= 0.1 * m
        expected.append(value)
    check_optimizer(optimizers.SGD(momentum=0.5), lib, p, gradients, 0.1, expected)


def check_optimizer(optimizer, lib, p, gradients, lr, expected):
    dtype = "float64" if "float64" in lib.dtypes() else "float32"
    parameters = {"p": lib.asarray(p, dtype)}
    moments = optimizers.zero_moments(optimizer, parameters)
    assert set(moments) == {f"{kind}.p" for kind in optimizer.kinds}
    for step, g in enumerate(gradients, 1):
        parameters, moments = optimizer.update(parameters, {"p": lib.asarray(g, dtype)}, moments, lr, step)
    assert_close(parameters["p"], np.array(expected), like=lib.asarray(p, dtype), steps=len(gradients))


def test_clipping_scales_all_gradients_together_or_none(lib):
    gradients = {"a": lib.asarray(np.array([3.0, 0.0])), "b": lib.asarray(np.array([[4.0]]))}
    clipped, norm = optimizers.clip_by_norm(gradients, 1.0)
    assert float(norm) == 5
    assert_close(clipped["a"], np.array([0.6, 0.0]), like=gradients["a"])
    assert_close(clipped["b"], np.array([[0.8]]), like=gradients["b"])
    same, _ = optimizers.clip_by_norm(gradients, 5.0)
    assert all(np.array_equal(to_numpy(same[name]), to_numpy(g)) for name, g in gradients.items())


def test_schedule_rises_then_falls():
    factors = [schedules.warmup_cosine(k / 1000) for k in range(1001)]
    assert factors[0] == 0
    assert factors.index(max(factors)) == 20
    assert max(factors) == 1
    assert factors[:21] == sorted(factors[:21])
    assert factors[20:] == sorted(factors[20:], reverse=True)
    assert factors[-1] == schedules.warmup_cosine(1.5) == pytest.approx(0.02)


# Texts and windows


def test_the_standard_library_is_split_the_same_way_every_time():
    first, second = texts.standard_library(), texts.standard_library()
    assert first.digests() == second.digests()
    assert len(first.test) == texts.TEST_BYTES
    assert len(first.train) > 10 * texts.TEST_BYTES
    assert b"\ndef " in first.test


def test_files_fall_into_one_part_each():
    contents = [b"<%04d>" % k * 200 for k in range(45)]
    parts = texts.split_by_file(contents, "test")
    for content in contents:
        assert sum(content in part for part in parts[:3]) == 1
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (36 * 1200, 4 * 1200, 5 * 1200)


def test_long_files_go_to_training():
    contents = [b"x" * (5000 if k == 0 else 1000) + b"%d" % k for k in range(40)]
    assert contents[0] in texts.split_by_file(contents, "test", longest=2000).train


def test_the_parts_of_one_text_follow_each_other():
    text = bytes(range(256)) * 100
    parts = texts.split_in_place(text, "test")
    assert parts.train + parts.validation + parts.test == text
    assert len(parts.test) == len(text) // 20


def test_a_file_given_twice_counts_once(tmp_path):
    for k in range(30):
        (tmp_path / f"{k}.txt").write_bytes(b"<%04d>" % (k % 25) * 200)
    parts = texts.read_texts(sorted(tmp_path.iterdir()))
    for k in range(25):
        assert sum(b"<%04d>" % k * 200 in part for part in parts[:3]) == 1


def test_windows_continue_each_other():
    text = bytes(np.random.default_rng(8).integers(0, 256, 1000, dtype=np.uint8))
    windows = batches.Windows(text, 3, 7, np)
    assert windows.per_epoch == 999 // 3 // 7
    data = np.frombuffer(text, np.uint8)
    for step in range(2 * windows.per_epoch):
        inputs, targets, fresh = windows.window(step)
        assert fresh == (step % windows.per_epoch == 0)
        for n in range(3):
            start = n * (999 // 3) + step % windows.per_epoch * 7
            np.testing.assert_array_equal(inputs[n], data[start : start + 7])
            np.testing.assert_array_equal(targets[n], data[start + 1 : start + 8])


def test_a_text_of_one_window_is_enough_and_less_is_not():
    assert batches.Windows(b"x" * 22, 3, 7, np).per_epoch == 1
    with pytest.raises(UserError, match="21 bytes, too few for --batch 3 times --length 7: give at least 22"):
        batches.Windows(b"x" * 21, 3, 7, np)


# Training, evaluation, sampling


def tiny_run(text, **changes):
    settings = Settings(
        **{**SHAPE, "hidden": 16, "layers": 1, "batch": 4, "length": 8, "lr": 0.02, "steps": 150} | changes
    )
    parameters = model.init_parameters(np.random.default_rng(0), **settings.model_shape(), dtype=settings.dtype)
    windows = batches.Windows(text, settings.batch, settings.length, np)
    validate = lambda parameters: evaluation.bits_per_byte(parameters, text[:64])  # noqa: E731
    return settings, list(loop.train(loop.initial_state(parameters, settings, np), settings, windows, validate))


@pytest.mark.parametrize("optimizer", [("adam", 0.02), ("sgd", 0.5)], ids=lambda pair: pair[0])
def test_training_learns_a_rhyme(optimizer):
    name, lr = optimizer
    _, states = tiny_run(b"to be or not to be, " * 100, optimizer=name, lr=lr, steps=250)
    assert states[0].step == 1
    assert loop.train_bits(states[0]) > 7
    assert loop.train_bits(states[-1]) < 1
    assert states[-1].history[-1]["valid_bits"] < 1.5


def test_history_has_a_hundred_records_and_ten_validations():
    _, states = tiny_run(b"to be or not to be, " * 100)
    history = states[-1].history
    assert [record["step"] for record in history] == sorted({record["step"] for record in history})
    assert len(history) == 100
    assert history[-1]["step"] == 150
    assert sum("valid_bits" in record for record in history) == 10


def test_a_window_is_a_step_from_the_carried_state():
    text = b"to be or not to be, " * 3  # short, so that the streams begin anew within the run
    settings, states = tiny_run(text, steps=5)
    windows = batches.Windows(text, settings.batch, settings.length, np)
    assert windows.per_epoch < 5
    for before, after in itertools.pairwise(states):
        inputs, _, fresh = windows.window(before.step)
        start = model.zero_state(before.parameters, settings.batch) if fresh else before.recurrent
        _, expected, _ = model.forward(before.parameters, inputs, start)
        np.testing.assert_array_equal(after.recurrent.c, expected.c)


def test_two_runs_give_the_same_bits():
    text = b"to be or not to be, " * 100
    (_, first), (_, second) = tiny_run(text, steps=20), tiny_run(text, steps=20)
    for name, value in first[-1].parameters.items():
        np.testing.assert_array_equal(second[-1].parameters[name], value)


def test_a_loss_that_is_no_number_ends_the_run():
    with pytest.raises(UserError, match="smaller --lr"), np.errstate(all="ignore"):
        tiny_run(b"to be or not to be, " * 100, lr=1e38, optimizer="sgd")


def test_a_model_that_knows_nothing_needs_eight_bits():
    parameters = {name: np.zeros(shape) for name, shape in model.parameter_shapes(**SHAPE).items()}
    assert_close(np.float64(evaluation.bits_per_byte(parameters, b"any text")), np.float64(8))


@pytest.mark.parametrize("streams", [1, 3])
def test_bits_per_byte_are_those_of_the_step_functions(streams, monkeypatch):
    monkeypatch.setattr(evaluation, "CHUNK_BYTES", 5 * streams)
    rng = np.random.default_rng(9)
    parameters, text = random_parameters(rng), bytes(rng.integers(0, 256, 41, dtype=np.uint8))
    size, bits = len(text) // streams, 0.0
    layers = model.layers_of(parameters)
    for start in range(0, size * streams, size):
        state = model.zero_state(parameters, 1)
        for t in range(start, start + size):
            logits, state = sampling.step(parameters, layers, text[t - 1] if t else ord("\n"), state)
            bits += (np.log(np.sum(np.exp(logits))) - logits[0, text[t]]) / math.log(2)
    expected = np.float64(bits / (size * streams))
    assert_close(np.float64(evaluation.bits_per_byte(parameters, text, streams=streams)), expected, steps=size)


def test_bits_per_byte_on_any_array_library(lib):
    parameters = random_parameters(np.random.default_rng(14))
    dtype = "float64" if "float64" in lib.dtypes() else "float32"
    here = {name: lib.asarray(value, dtype) for name, value in parameters.items()}
    found, expected = (evaluation.bits_per_byte(values, b"any text") for values in (here, parameters))
    assert_close(np.asarray(found, dtype), np.float64(expected), like=np.zeros((), dtype), steps=8)


def test_compressors():
    found = evaluation.compressor_bits_per_byte(b"abcd" * 25_000)
    assert set(found) == {"xz -9", "bzip2 -9"}
    assert all(0 < bits < 0.1 for bits in found.values())


def test_samples_repeat_by_seed_and_differ_without():
    parameters = random_parameters(np.random.default_rng(10))

    def draw(seed, temperature=1.0):
        rng = np.random.default_rng(seed)
        return bytes(sampling.sample_bytes(parameters, b"So ", 50, temperature=temperature, rng=rng))

    assert draw(1) == draw(1) != draw(2)
    assert draw(1, 0) == draw(2, 0) == draw(1, 1e-6)
    assert len(draw(1)) == 50


def test_a_prompt_matters():
    parameters = random_parameters(np.random.default_rng(11))

    def draw(prompt):
        return bytes(sampling.sample_bytes(parameters, prompt, 20, rng=np.random.default_rng(0)))

    assert draw(b"a") == draw(b"a") != draw(b"b")


def test_draws_follow_the_softmax():
    logits = np.full(256, -np.inf)
    logits[[65, 66, 67]] = np.log([0.5, 0.3, 0.2])
    rng = np.random.default_rng(12)
    for temperature in (1.0, 2.0):
        draws = [sampling._draw(logits, temperature, rng) for _ in range(5_000)]
        shares = np.array([0.5, 0.3, 0.2]) ** (1 / temperature)
        shares /= shares.sum()
        counts = np.array([draws.count(byte) for byte in (65, 66, 67)])
        assert counts.sum() == 5_000
        # Five standard deviations of a binomial distribution.
        assert np.all(np.abs(counts - 5_000 * shares) < 5 * np.sqrt(5_000 * shares * (1 - shares)))


# Files


def test_a_file_is_the_old_one_or_the_new_one(tmp_path, monkeypatch):
    path = tmp_path / "file"
    checkpoints.write_atomically(path, b"old")
    assert path.read_bytes() == b"old"

    def fail(*_):
        raise OSError(28, "No space left on device")

    for function in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, fail)
            with pytest.raises(OSError, match="No space"):
                checkpoints.write_atomically(path, b"new")
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["file"]
    checkpoints.write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_checkpoints_hold_every_bit(tmp_path, dtype):
    settings, states = tiny_run(b"to be or not to be, " * 100, dtype=dtype, steps=7)
    state = states[4]
    path = tmp_path / "checkpoint.safetensors"
    checkpoints.save_checkpoint(path, state, settings, ["a.txt"], {"train": "0"})
    loaded, *rest = checkpoints.load_checkpoint(path)
    assert rest == [settings, ["a.txt"], {"train": "0"}]
    for field in ("step", "seconds", "losses", "history", "loss"):
        assert getattr(loaded, field) == getattr(state, field)
    for field in ("parameters", "moments"):
        mine, theirs = getattr(state, field), getattr(loaded, field)
        assert set(mine) == set(theirs)
        for name, value in mine.items():
            assert theirs[name].dtype == value.dtype
            np.testing.assert_array_equal(theirs[name], value)
    for mine, theirs in zip(state.recurrent, loaded.recurrent, strict=True):
        np.testing.assert_array_equal(theirs, mine)


def test_a_loaded_checkpoint_goes_on_with_the_same_bits(tmp_path):
    text = b"to be or not to be, " * 100
    settings, states = tiny_run(text, steps=30)
    checkpoints.save_checkpoint(tmp_path / "c", states[12], settings, [], {})
    loaded, *_ = checkpoints.load_checkpoint(tmp_path / "c")
    windows = batches.Windows(text, settings.batch, settings.length, np)
    validate = lambda parameters: evaluation.bits_per_byte(parameters, text[:64])  # noqa: E731
    *_, last = loop.train(loaded, settings, windows, validate)
    for name, value in states[-1].parameters.items():
        np.testing.assert_array_equal(last.parameters[name], value)
    strip = lambda history: [{k: v for k, v in record.items() if k != "seconds"} for record in history]  # noqa: E731
    assert strip(last.history) == strip(states[-1].history)


def test_models_hold_every_bit(tmp_path):
    settings, states = tiny_run(b"to be or not to be, " * 100, steps=3)
    path = tmp_path / "model.safetensors"
    checkpoints.save_model(path, states[-1].parameters, settings, step=3)
    parameters, loaded = checkpoints.load_model(path)
    assert loaded == settings
    for name, value in states[-1].parameters.items():
        np.testing.assert_array_equal(parameters[name], value)
