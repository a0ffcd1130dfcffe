"""Scaling laws fitted to a table of losses: laws, robust fits, bootstrap, and what each fit must state."""
