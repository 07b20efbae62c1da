"""Everything that the plugins use of MLflow's server beyond its public API.

A plugin of the group ``mlflow.app`` has no public way to mount a page under the server's prefix, to read the
stores in use, or to ask for a user's permissions. All such names are used here and nowhere else. Each may go
with any release of MLflow, so that ``pyproject.toml`` bounds its version, and a test looks up every name in
``PRIVATE_NAMES``.
"""

from http import HTTPStatus
from typing import Any

from flask import Flask, g
from mlflow.environment_variables import _MLFLOW_SGI_NAME
from mlflow.server import app as mlflow_app
from mlflow.server.handlers import (
    _add_static_prefix,
    _get_model_registry_store,
    _get_tracking_store,
    get_logged_model_artifact_handler,
)
from mlflow.utils.workspace_context import get_request_workspace

from lineage.errors import IntegrityError

PRIVATE_NAMES = {
    "mlflow.environment_variables:_MLFLOW_SGI_NAME": "to know whether uvicorn runs the server",
    "mlflow.server:app": "to mount the page on MLflow's own Flask app",
    "mlflow.server.fastapi_app:create_fastapi_app": "to wrap the Flask app for uvicorn, which the CLI starts",
    "mlflow.server.handlers:_add_static_prefix": "to mount the page under --static-prefix",
    "mlflow.server.handlers:_get_model_registry_store": "to point MLflow's client at the server's registry",
    "mlflow.server.handlers:_get_tracking_store": "to point MLflow's client at the server's database",
    "mlflow.server.handlers:get_logged_model_artifact_handler": "to read files that the server proxies",
    "mlflow.server.auth:BEFORE_REQUEST_VALIDATORS": "to let routes pass that check permissions themselves",
    "mlflow.server.auth:_get_experiment_permission": "to ask whether a user may read runs",
    "mlflow.server.auth:_get_registered_model_permission": "to ask whether a user may read a family",
    "mlflow.server.auth:create_app": "to put the page behind basic-auth",
    "mlflow.server.auth:sender_is_admin": "to ask whether a user may read everything",
    "mlflow.utils.workspace_context:get_request_workspace": "to keep families of workspaces apart",
}
"""Names, as ``module:name``, and the reason why each is needed."""

__all__ = [
    "PRIVATE_NAMES",
    "allow_route",
    "as_server_app",
    "behind_basic_auth",
    "get_request_workspace",
    "may_read_experiment",
    "may_read_registered_model",
    "mlflow_app",
    "read_logged_model_file",
    "select_server_stores",
    "with_static_prefix",
]


def with_static_prefix(path: str) -> str:
    """Return a path below the ``--static-prefix`` of the server."""
    return str(_add_static_prefix(path))


def as_server_app(app: Flask) -> Any:
    """Return what the server runs: FastAPI around the Flask app under uvicorn, the Flask app otherwise."""
    if _MLFLOW_SGI_NAME.get() != "uvicorn":
        return app
    from mlflow.server.fastapi_app import create_fastapi_app  # Starlette warns when it is imported

    return create_fastapi_app(app)


def select_server_stores() -> None:
    """Point MLflow's client in this process at the server's stores, which their first use does."""
    _get_tracking_store()
    _get_model_registry_store()


def read_logged_model_file(model_id: str, path: str, most_bytes: int) -> bytes | None:
    """Return a file of a logged model, wherever the server keeps it; None if there is none.

    A client in the server's process cannot: it finds no server to ask for artifacts that the server proxies.

    Raises:
        IntegrityError: If it is larger than ``most_bytes``.
    """
    with mlflow_app.test_request_context(query_string={"artifact_file_path": path}):
        response = get_logged_model_artifact_handler(model_id)
        try:
            if response.status_code != HTTPStatus.OK:
                return None
            size = response.content_length or 0
            if size > most_bytes:
                raise IntegrityError(
                    f"The file {path} of {model_id} must have at most {most_bytes:,} bytes to be shown, but"
                    f" has {size:,}; restore it."
                )
            response.direct_passthrough = False
            return bytes(response.get_data())
        finally:
            response.close()


# Importing MLflow's basic-auth reads its configuration and needs the extra mlflow[auth]: only in functions.


def behind_basic_auth(app: Flask) -> Any:
    """Return the server's app behind MLflow's basic-auth."""
    from mlflow.server import auth

    return auth.create_app(app)


def allow_route(rule: str) -> None:
    """Let GET requests for a route pass basic-auth, which refuses routes that it has no validator for.

    A user must still be logged in.
    """
    from mlflow.server import auth

    auth.BEFORE_REQUEST_VALIDATORS[(rule, "GET")] = lambda: True


def may_read_registered_model(name: str) -> bool:
    """Return whether the user of this request may read a registered model."""
    from mlflow.server import auth

    return bool(auth.sender_is_admin() or auth._get_registered_model_permission(name).can_read)


def may_read_experiment(experiment: str) -> bool:
    """Return whether the user of this request may read the runs of an experiment, by its id."""
    from mlflow.server import auth

    user = str(g.mlflow_authenticated_user)  # set by basic-auth
    return bool(auth.sender_is_admin() or auth._get_experiment_permission(experiment, user).can_read)
