"""Tasks: procedural few-shot tasks with known chance and Bayes-optimal accuracy, and text."""
