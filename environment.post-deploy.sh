#!/bin/sh
# Installs the locked packages and this repository into the active conda environment. Snakemake makes
# a new environment when this file changes, and so when the locked packages do:
# lock 4a4fa1f14b38dde78f82deee9d9c5fbef7e331a3e936397221d879607d16b272
exec sh tools/install.sh python
