"""The mixture of histories: one distribution from jobs that ended, its weights learned online."""
