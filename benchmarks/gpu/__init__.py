"""One command that proves a GPU, and measures it: `python -m benchmarks.gpu --help`.

Reading order: sizes.py (what is run), programme.py (parts, their time, what is written when), worker.py (the process
that works), places.py (the device, or this processor in its stead for a rehearsal); then one file per part:
environment.py, compiling.py, correctness.py, timed.py (the engines, and cuDNN's LSTM by torch), latencies.py,
ceilings.py, sanitizer.py; last verdict.py, ratios.py and report.py.

A part is a module with

    units(place)        what it does, piece by piece: dicts for JSON, made without touching the device
    run(unit, place)    does a piece: a list of records, dicts for JSON; each goes into the file with its part and unit
"""
