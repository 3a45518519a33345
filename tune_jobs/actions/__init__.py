"""What the commands do besides parsing and printing: the functions that Python programs and notebooks call, too."""
