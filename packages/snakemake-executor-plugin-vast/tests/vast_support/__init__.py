"""Helpers that several tests of the plugin share."""
