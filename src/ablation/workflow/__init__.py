"""What the Snakemake rules compute: paths, fingerprints and inputs of every job.

This package does not import Snakemake, and scripts do not import this package: it decides what is
stale, so it must not be part of what makes results stale.
"""
