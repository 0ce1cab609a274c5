"""The mixture of histories: what a job's keys did lately, as one distribution whose weights are learned as jobs end."""
