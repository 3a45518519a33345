"""Training: `loop.py` is the path from the first step to the result; the rest is what it calls."""
