"""Tasks: when sets of jobs will be done, and what they will need."""
