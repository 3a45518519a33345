"""One training run of a residual network, on one process or on many workers."""
