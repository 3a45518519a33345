"""TensorBoard served on results, from a directory or a copy of what S3 holds."""
