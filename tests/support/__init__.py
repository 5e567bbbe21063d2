"""Helpers that several test files share: tiny models, small studies, fake services."""
