"""Golden loss curves: what the code computed when they were written, and how to compare two commits by them."""
