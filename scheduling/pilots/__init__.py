"""Replays of a log on pilots: slots of limited time that pull waiting jobs."""
