"""How fast the LSTM is, beside others on the same machine: `python -m benchmarks --help`.

Reading order: problems.py (what is measured), rivals/__init__.py (the contract of a contender), worker.py and timing.py
(the process that one contender lives in), runner.py (the rounds), records.py, report.py.
"""
