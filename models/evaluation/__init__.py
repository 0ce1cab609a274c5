"""Backtests of whole logs: predictors, memory allocation and classes compared."""
