"""``mlflow server --app-name lineage``: the stock MLflow UI, and ``/lineage``, which draws families.

An entry point of the group ``mlflow.app``, in two forms: ``lineage``, and ``lineage-auth`` behind MLflow's
basic-auth. All that is added is read-only: every route answers GET alone. Data come below ``/ajax-api``,
where MLflow's own checks of hosts and origins hold, and behind basic-auth a user reads what MLflow lets them
read.
"""

import gzip
import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Flask, Response, g, redirect, request
from mlflow.environment_variables import _MLFLOW_SGI_NAME
from mlflow.server import app as mlflow_app
from mlflow.server.fastapi_app import create_fastapi_app
from mlflow.server.handlers import _add_static_prefix, _get_model_registry_store, _get_tracking_store

from lineage.errors import LineageError, NotFoundError, UsageError
from lineage.report.page_data import PAGE, SCRIPT, STYLE, page_asset
from lineage_mlflow.families import Families

_PAGE_PATH = "/lineage"
_DATA_PATH = "/ajax-api/3.0/lineage"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reader:
    """What the user of a request may read.

    Attributes:
        may_read_model: Of a registered model's name.
        may_read_runs: Of an experiment's id.
    """

    may_read_model: Callable[[str], bool] = lambda _name: True
    may_read_runs: Callable[[str], bool] = lambda _experiment: True


def create_app(app: Flask = mlflow_app) -> Any:
    """MLflow's server with the page of families; what ``--app-name lineage`` starts."""
    app.register_blueprint(_blueprint(Reader()))
    return create_fastapi_app(app) if _MLFLOW_SGI_NAME.get() == "uvicorn" else app


def create_authenticated_app(app: Flask = mlflow_app) -> Any:
    """The same behind MLflow's basic-auth; what ``--app-name lineage-auth`` starts."""
    from mlflow.server import auth

    def may_read_model(name: str) -> bool:
        return auth.sender_is_admin() or auth._get_registered_model_permission(name).can_read

    def may_read_runs(experiment: str) -> bool:
        user = str(g.mlflow_authenticated_user)
        return auth.sender_is_admin() or auth._get_experiment_permission(experiment, user).can_read

    blueprint = _blueprint(Reader(may_read_model, may_read_runs))
    app.register_blueprint(blueprint)
    for rule in app.url_map.iter_rules():
        if rule.endpoint.startswith(f"{blueprint.name}."):
            # MLflow refuses routes without a validator where it is told to fail closed; ours ask themselves
            auth.BEFORE_REQUEST_VALIDATORS[(rule.rule, "GET")] = lambda: True
    return auth.create_app(app)


def _blueprint(reader: Reader) -> Blueprint:
    """All routes, for users who may read what ``reader`` says."""
    routes = Blueprint("lineage", __name__)
    families = Families()

    def page(path: str, view: Callable[[], Any]) -> None:
        name = path.replace("/", "-").replace(".", "-")
        routes.add_url_rule(_add_static_prefix(path), name, view, methods=["GET"])

    def answers(path: str, view: Callable[[], Any]) -> None:
        page(f"{_DATA_PATH}/{path}", lambda: _answer(view))

    def readable(name: str) -> str:
        if not reader.may_read_model(name):
            raise _ForbiddenError(f"You may not read the family '{name}'; ask its owner for permission.")
        return name

    def family() -> dict[str, Any]:
        return families.family(readable(_argument("name")), reader.may_read_runs)

    def growing() -> dict[str, Any]:
        return families.growing(readable(_argument("name")), reader.may_read_runs)

    def settings() -> dict[str, Any]:
        version = _argument("version")
        return families.settings(readable(_argument("name")), version, reader.may_read_runs)

    page(_PAGE_PATH, lambda: _asset(PAGE, "text/html"))
    page(f"{_PAGE_PATH}/", lambda: redirect(_add_static_prefix(_PAGE_PATH)))
    page(f"{_PAGE_PATH}/{STYLE}", lambda: _asset(STYLE, "text/css"))
    page(f"{_PAGE_PATH}/{SCRIPT}", lambda: _asset(SCRIPT, "text/javascript"))
    answers("families", lambda: families.overview(reader.may_read_model, reader.may_read_runs))
    answers("family", family)
    answers("growing", growing)
    answers("settings", settings)
    return routes


class _ForbiddenError(LineageError):
    """The user may not read what was asked for."""


def _argument(name: str) -> str:
    value = request.args.get(name, "")
    if not value:
        raise UsageError(f"The address must have the parameter '{name}', but has none.")
    return value


def _answer(view: Callable[[], dict[str, Any]]) -> Response:
    """JSON, packed; an error in words where there is one."""
    # MLflow's own stores point this process's MLflow at the server's database when they are first used
    _get_tracking_store()
    _get_model_registry_store()
    try:
        body, status = view(), 200
    except _ForbiddenError as error:
        body, status = {"error": str(error)}, 403
    except (NotFoundError, UsageError) as error:
        body, status = {"error": str(error)}, 404 if isinstance(error, NotFoundError) else 400
    except LineageError:  # what it says of the store is for whoever runs the server
        _logger.exception("A family could not be read")
        body, status = {"error": "The registry cannot be read; the server's log says why."}, 503
    packed = body.pop("packed", None)
    response = _respond(packed or gzip.compress(json.dumps(body).encode(), 5), "application/json", status)
    response.headers["Cache-Control"] = "no-cache"
    return response


def _asset(name: str, media_type: str) -> Response:
    """One of the page's files; asked again, a browser learns whether it is still the same."""
    text = page_asset(name).encode()
    response = _respond(gzip.compress(text, 9, mtime=0), f"{media_type}; charset=utf-8", 200)
    response.headers["Cache-Control"] = "no-cache"
    response.set_etag(hashlib.sha256(text).hexdigest())
    response.make_conditional(request)
    return response


def _respond(packed: bytes, media_type: str, status: int) -> Response:
    """A response with ``packed`` as it is, or unpacked for the rare client that cannot."""
    accepted = "gzip" in request.headers.get("Accept-Encoding", "")
    response = Response(packed if accepted else gzip.decompress(packed), status, content_type=media_type)
    if accepted:
        response.headers["Content-Encoding"] = "gzip"
    response.headers["Vary"] = "Accept-Encoding"
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    return response
