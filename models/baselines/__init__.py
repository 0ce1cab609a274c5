"""The rivals: how schedulers and the literature predict today."""
