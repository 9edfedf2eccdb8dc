"""nccleaner's command line: click commands and every rich call. What they do is in `nccleaner`."""
