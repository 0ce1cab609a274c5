"""The baselines: how schedulers and the literature predict today."""
