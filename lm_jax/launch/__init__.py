"""Launchers: send cells of a sweep to where they run."""
