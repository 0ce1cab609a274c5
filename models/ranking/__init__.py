"""Where a job would be done first, and from where its input comes soonest."""
