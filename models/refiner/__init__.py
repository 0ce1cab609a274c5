"""The refiner: CatBoost bends what the mixture of histories foresaw, for whom and as far as later jobs bear it out."""
