"""Python reads this as it starts: the short processes of a study's tests collect garbage seldom.

A fifth of importing torch and transformers is the collector's walks through what was just imported.
"""

import gc

gc.set_threshold(100_000, 20, 100)
