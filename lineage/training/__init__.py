"""Training of one generation; knows neither MLflow nor recipes."""
