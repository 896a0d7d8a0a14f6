"""Shared by all commands: command line and errors, files, output folders, locks, worker processes, Ctrl-C."""
