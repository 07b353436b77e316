"""numba kernels and their launchers, one file per family."""
