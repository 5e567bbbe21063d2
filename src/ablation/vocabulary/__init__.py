"""The names of masks, recipes, stages, metrics and tables for rules, code and configuration.

All of them are closed sets. Snakemake reads this package when it parses the rules, so its modules
import no large library.
"""
