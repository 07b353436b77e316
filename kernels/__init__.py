"""Fast implementations: numba on CPUs (`cpu`), Triton on GPUs (`gpu`). No public names; `fastwarp.ops` calls them."""
