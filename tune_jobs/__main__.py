"""`python -m tune_jobs`: the whole command line, for `ray job submit`."""

from tune_jobs.command_line import entry_point

entry_point()
