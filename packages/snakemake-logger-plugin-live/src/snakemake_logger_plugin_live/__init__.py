"""Snakemake logger plugin `live`: a live table of running jobs, or plain lines without a terminal.

    snakemake --logger live --cores all

Snakemake imports `LogHandler` from here. Two modules are meant for other programs: `pause` stops
the display while a program asks the user a question, and `costs` adds dollars to the display.
"""

from .handler import LogHandler

__all__ = ["LogHandler"]
