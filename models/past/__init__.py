"""What had happened by the submission of a record: the only inputs a prediction may use."""
