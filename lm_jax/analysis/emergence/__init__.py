"""Emergence statistics of curves of scores over sizes: `table.analyze` gives a row a curve."""
