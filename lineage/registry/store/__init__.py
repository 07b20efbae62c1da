"""The MLflow store: connection, searches, runs of every kind, artifacts of networks, the server."""
