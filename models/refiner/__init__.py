"""The refiner: CatBoost reweights the mixture's distributions as far as later jobs confirm it."""
