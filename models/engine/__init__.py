"""The engine: mixture and refiner together, from training to the forecaster that serves."""
