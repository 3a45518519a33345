"""`python -m tune_jobs`: the whole command line, for `ray job submit`."""

import sys

from tune_jobs.command_line import main

sys.exit(main())
