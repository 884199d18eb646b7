"""Makes keras_lstm.keras and keras_lstm.npz: a Keras model, saved by Keras, with the outputs of its layers.

    KERAS_BACKEND=torch python tests/data/make_keras_lstm.py

Needs keras, h5py and a backend. Three layers that differ in all that the reader looks at; every weight is random. The
archive is packed again, with compression: what is in it is as Keras wrote it.
"""

import zipfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def main():
    import keras
    from keras import layers

    given = keras.Input((None, 3))
    first = layers.LSTM(4, return_sequences=True, recurrent_activation="hard_sigmoid", dropout=0.25, name="first")(
        given
    )
    both = layers.Bidirectional(layers.LSTM(5, return_sequences=True), name="both")(first)
    last = layers.LSTM(2, go_backwards=True, use_bias=False, activation="relu", name="last")(both)
    model = keras.Model(given, [first, both, last])
    rng = np.random.default_rng(0)
    model.set_weights([0.5 * rng.standard_normal(v.shape) for v in model.get_weights()])
    x = rng.standard_normal((2, 6, 3)).astype("float32")
    outputs = [np.asarray(y) for y in model.predict(x, verbose=0)]
    np.savez(HERE / "keras_lstm.npz", x=x, **dict(zip(("first", "both", "last"), outputs, strict=True)))
    path = HERE / "keras_lstm.keras"
    model.save(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


if __name__ == "__main__":
    main()
