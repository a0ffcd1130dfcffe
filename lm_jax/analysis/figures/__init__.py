"""Figures of a study, with the numbers behind them."""
