"""The commands of the command line, one module each; see `lstm_xp.cli`."""
