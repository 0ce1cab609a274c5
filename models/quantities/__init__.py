"""What is predicted: quantities with their units, grids and limits, and distributions over them."""
