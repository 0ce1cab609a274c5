"""Evaluation: a whole log lived through in the order of time, and what came of it as tables and plots."""
