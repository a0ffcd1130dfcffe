"""Corpora and fixed evaluation sets on disk."""
