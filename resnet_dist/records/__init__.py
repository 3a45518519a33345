"""What a trial leaves: checkpoints, metrics, weights, provenance and, last, its result."""
