"""Releases: versions with their evidence, compared on later jobs, promoted, and taken back."""
