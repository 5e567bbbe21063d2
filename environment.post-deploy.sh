#!/bin/sh
# Installs the locked packages and this repository into the active conda environment. Snakemake makes
# a new environment when this file changes, and so when the locked packages do:
# lock 0df0a340fceb59f232fefabc6728cb5ef317e9aecd702efef6eefe15cfe4751d
exec sh tools/install.sh python
