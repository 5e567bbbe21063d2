"""Output on the terminal: lines of progress, logs of jobs, and pauses of a live display."""
