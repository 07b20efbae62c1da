"""The registry in MLflow: runs and artifacts (store), versions and their graph (family), repair (care)."""
