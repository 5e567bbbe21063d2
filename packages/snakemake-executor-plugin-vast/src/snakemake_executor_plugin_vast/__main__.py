"""`python -m snakemake_executor_plugin_vast` is the command `snakemake-vast`."""

import sys

from .command import main

sys.exit(main())
