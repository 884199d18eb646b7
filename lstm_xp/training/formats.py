"""What the files of a run are called in their metadata."""

MODEL_FORMAT = "lstm-xp byte model 1"
CHECKPOINT_FORMAT = "lstm-xp checkpoint 1"
