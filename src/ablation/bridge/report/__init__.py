"""The figures and pages of the second study."""
