"""What every command shares: the command line, files, locks, worker processes, Ctrl-C."""
