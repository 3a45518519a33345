"""The program's commands, a file each: they parse, call what does the work, and print."""
