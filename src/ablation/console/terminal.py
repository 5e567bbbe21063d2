"""Pauses the live display of Snakemake's jobs, so that a question can be asked."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext


def live_display_paused() -> AbstractContextManager[None]:
    """A context in which nothing is drawn and the standard streams are the terminal's.

    The live display belongs to the logger plugin `live`. If Snakemake has not loaded the plugin,
    the context does nothing, so ablation does not depend on the plugin.
    """
    pause = sys.modules.get("snakemake_logger_plugin_live.pause")
    return pause.live_display_paused() if pause else nullcontext()
