"""What a run is told: a section a file, put together in `training.py`, whose hash is a trial's identity."""
