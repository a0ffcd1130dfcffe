"""The report of a study, or of several."""
