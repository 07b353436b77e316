"""Triton kernels and their launchers, one file per family."""

import triton

from fastwarp.errors import FastwarpError

if tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 6):
    raise FastwarpError(f"the triton backend needs Triton 3.6 or newer (of torch 2.11), got {triton.__version__}")
