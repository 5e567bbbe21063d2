#!/bin/sh
# Installs the locked packages and this repository into the active conda environment. Snakemake makes
# a new environment when this file changes, and so when the locked packages do:
# lock 290494427e70c44ee257b6dcc95a87b190fb919e4befe637bd3e22e70f9453c4
exec sh tools/install.sh python
