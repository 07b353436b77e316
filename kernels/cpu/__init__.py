"""numba kernels and their launchers, one file per family."""

from typing import Any

import numba

from fastwarp.errors import FastwarpError

_config: Any = numba.config
if _config.DISABLE_JIT:
    raise FastwarpError(
        "NUMBA_DISABLE_JIT switches off the compiler that the CPU kernels need: unset it, or choose the NumPy "
        'reference by fastwarp.backend("reference") or FASTWARP_BACKEND=reference'
    )
