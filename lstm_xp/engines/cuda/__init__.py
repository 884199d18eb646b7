"""What the engines for CUDA are made of: kernels (`.cu`) and matrix products. CuPy is imported inside functions."""
