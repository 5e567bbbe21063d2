"""Typed configuration: keys, merging of files, checks."""
