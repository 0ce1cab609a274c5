"""What a person types: a command reads its arguments, calls one function below and prints its table."""
