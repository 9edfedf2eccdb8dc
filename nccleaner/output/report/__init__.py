"""The report: one HTML page about a purge, from plain records."""
