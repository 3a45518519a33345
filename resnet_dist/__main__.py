"""`python -m resnet_dist`: the whole command line, for `ray job submit`.

This is the one place in the package that looks outward: it puts the program together.
"""

from tune_jobs.command_line import entry_point

entry_point()
