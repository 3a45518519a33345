"""The Ray cluster: found or started, asked before a grid, given jobs."""
