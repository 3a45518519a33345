"""What TensorBoard shows of a run: event files, pictures, dashboards."""
