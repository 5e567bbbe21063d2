"""Prepares results for publication: a checkpoint for the hub, a study for an archive of data."""
