"""What storage holds of an experiment, read back."""
