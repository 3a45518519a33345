"""From an experiment file to trials, and trials on Ray Tune."""
