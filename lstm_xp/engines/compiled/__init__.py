"""What the engine `numpy_numba` compiles: registers (`vectors.py`), the loops over them (`kernels.py`), and threads."""
