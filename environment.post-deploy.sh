#!/bin/sh
# Installs the locked packages and this repository into the active conda environment. Snakemake makes
# a new environment when this file changes, and so when the locked packages do:
# lock 0b16a76f4bf8304c611312293b14ba4dee82a2ee391ef3d920752a032fb50e99
exec sh tools/install.sh python
