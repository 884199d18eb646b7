"""What a training run needs beside the LSTM: a byte-level language model and all that trains it.

Each file is one component, and can be used alone with the arrays of any library:

    model.py         embedding, stacked LSTM layers, output layer: forward, backward, initial values
    losses.py        softmax cross-entropy
    optimizers.py    Adam, SGD with momentum, norm clipping
    schedules.py     warm-up and cosine decay of the learning rate
    texts.py         which text is read, and its split into train, validation and test
    batches.py       parallel streams of a text, cut into windows
    loop.py          one training step, and the loop over them
    evaluation.py    bits per byte of a text; what general compressors need for it
    sampling.py      text from a model, one step at a time
    checkpoints.py   files of weights, whole or not at all
    formats.py       what those files are called in their metadata
    runs.py          the directory of a run: checkpoint, weights, history, curve
    settings.py      the settings of a run
    devices.py       the array library of a device
    progress.py      what a person sees meanwhile
    errors.py        the error that is shown without a traceback
"""
