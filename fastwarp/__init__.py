"""Fast, exact and differentiable zoom and unzoom operators for vision networks."""

__version__ = "0.1.0"
