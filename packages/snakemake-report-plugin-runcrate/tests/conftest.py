"""Fixtures of every test of the plugin."""

from snakemake_report_plugin_runcrate.testing import crate_findings  # noqa: F401
