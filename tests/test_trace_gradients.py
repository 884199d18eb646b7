"""The gradients that the command trace draws: those of the last byte's loss, and where there are none to draw."""

import numpy as np
import pytest

pytest.importorskip("safetensors")
pytest.importorskip("matplotlib")

from lstm_xp import LSTM, GradientTrace, cli, weights
from lstm_xp.commands import gate_plot
from lstm_xp.testing import assert_close
from lstm_xp.training import checkpoints, losses, model
from lstm_xp.training.settings import Settings

# Older releases of Matplotlib call what newer ones of their own dependencies have renamed.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib.*")

TEXT, LAYERS, H = b"some text, of which the first bytes are drawn", 2, 5


@pytest.fixture
def parameters(tmp_path):
    """Those of the language model that lies in tmp_path."""
    settings = Settings(hidden=H, layers=LAYERS, embedding=4, dtype="float64")
    parameters = model.init_parameters(np.random.default_rng(0), **settings.model_shape(), dtype="float64")
    checkpoints.save_model(tmp_path / "model.safetensors", parameters, settings, step=0, test_bits={})
    (tmp_path / "text").write_bytes(TEXT)
    return parameters


def run(folder, *options):
    """The command on the model and the text of a folder; the exit status."""
    arguments = [folder / "model.safetensors", folder / "text", "--gradients", "--out", folder / "g.svg", *options]
    return cli.main(["trace", *map(str, arguments)])


@pytest.mark.parametrize(("start", "show"), [(0, 2), (0, 7), (0, 120), (3, 1), (3, 4)])
@pytest.mark.parametrize("layer", range(LAYERS))
def test_they_are_those_of_the_loss_of_the_last_byte_drawn(parameters, tmp_path, monkeypatch, layer, start, show):
    """Summed over the steps, those of the biases; from a model that has read no further."""
    drawn = []
    monkeypatch.setattr(gate_plot, "draw", lambda *_, gradients: drawn.append(gradients) or b"a picture")
    assert run(tmp_path, "--start", start, "--show", show, "--layer", layer) == 0
    (found,) = drawn
    data = np.frombuffer(TEXT[: start + show], np.uint8).astype(np.int64)[None, :]
    logits, _, cache = model.forward(parameters, data[:, :-1], None)
    _, loss = losses.cross_entropy_forward(logits[:, -1:], data[:, -1:])
    dlogits = np.zeros_like(logits)
    dlogits[:, -1:] = losses.cross_entropy_backward(loss)
    whole = model.backward(dlogits, cache)[f"lstm{layer}.b"]
    da = np.concatenate([found.da_i, found.da_f, found.da_o, found.da_g], axis=-1)
    assert da.shape == (*data.shape, 4 * H)
    assert_close(np.sum(da, axis=(0, 1)), whole, kind="gradient", steps=len(TEXT), name="b")
    assert np.all(np.any(found.dh[0, : data.shape[1] - 1], axis=-1))
    assert not np.any(found.dh[0, data.shape[1] - 1 :])


def test_maps_are_logarithms_in_the_order_of_the_others(monkeypatch, parameters, tmp_path):
    from matplotlib.axes import Axes

    images, values = [], np.zeros((1, len(TEXT), H))
    values[0, 3] = [1, -10, 100, 1e-3, 0]
    monkeypatch.setattr("lstm_xp.gradient_traces", lambda *_: [GradientTrace(*[values] * 6)] * LAYERS)
    real = Axes.imshow

    def imshow(self, data, **options):
        images.append((self, data, options))
        return real(self, data, **options)

    monkeypatch.setattr(Axes, "imshow", imshow)
    assert run(tmp_path) == 0
    assert len(images) == len(gate_plot.MAPS) + len(gate_plot.GRADIENTS)
    axes, data, options = images[-1]
    units = [int(label.get_text()) for label in axes.get_yticklabels()]
    assert sorted(units) == list(range(H))
    assert data.shape == (H, len(TEXT))
    assert data[units.index(2), 3] == options["vmax"] == 2
    assert (data[units.index(0), 3], data[units.index(1), 3]) == (0, 1)
    assert data[units.index(4), 3] == data[0, 0] < options["vmin"]


@pytest.mark.parametrize("options", [["--show", 1], ["--length", 1]], ids=str)
def test_one_byte_has_no_step_before_it(parameters, tmp_path, capsys, options):
    assert run(tmp_path, *options) == 2
    assert "--gradients: the first byte alone is drawn, and nothing predicts it" in capsys.readouterr().err
    assert not (tmp_path / "g.svg").exists()


def test_a_signal_has_no_loss(tmp_path, capsys):
    network = LSTM(3, H)
    weights.save(tmp_path / "n.npz", network, network.init())
    np.save(tmp_path / "x.npy", np.ones((4, 3)))
    files = [str(tmp_path / name) for name in ("n.npz", "x.npy", "g.png")]
    assert cli.main(["trace", *files[:2], "--gradients", "--out", files[2]]) == 2
    assert "n.npz is no language model, so it has no loss" in capsys.readouterr().err
    assert not (tmp_path / "g.png").exists()
