"""The networks: `construction.py` makes them, a family of networks is a file; batch norm over the global batch."""
