"""The commands: each reads its arguments, calls functions below and prints a table."""
