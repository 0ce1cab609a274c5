"""What had happened by the time a record was submitted: the only things that a prediction may look at."""
