"""MLflow's store: connection, runs and artifacts."""
