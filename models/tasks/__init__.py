"""Ends and resource needs of tasks, sets of jobs that are defined together."""
