"""What MLflow remembers: model versions, their ancestry, their runs."""
