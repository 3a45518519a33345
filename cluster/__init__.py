"""Where runs happen and where their results live: storage, Ray clusters, TensorBoard."""
