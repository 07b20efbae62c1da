"""MLflow's server with the page of families at ``/lineage``: ``mlflow server --app-name lineage``.

Entry points of the group ``mlflow.app``: ``lineage``, and ``lineage-auth`` behind MLflow's basic-auth. Every
added route is read-only and answers GET alone. Data are served below ``/ajax-api``, where MLflow checks hosts
and origins. Behind basic-auth a user reads what MLflow's permissions allow.
"""

import gzip
import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Flask, Response, redirect, request

from lineage.display.page.render import STYLE, module_names, page_asset, served_page
from lineage.errors import LineageError, NotFoundError, UsageError
from lineage_mlflow.families import FamilyReader
from lineage_mlflow.mlflow_private import (
    allow_route,
    as_server_app,
    behind_basic_auth,
    may_read_experiment,
    may_read_registered_model,
    mlflow_app,
    select_server_stores,
    with_static_prefix,
)

_PAGE_PATH = "/lineage"
_DATA_PATH = "/ajax-api/3.0/lineage"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Permissions:
    """Permissions of the user of a request; without basic-auth everybody may read everything.

    Attributes:
        may_read_model: Whether the user may read a registered model, by its name.
        may_read_runs: Whether the user may read the runs of an experiment, by its id.
    """

    may_read_model: Callable[[str], bool] = lambda _name: True
    may_read_runs: Callable[[str], bool] = lambda _experiment: True


def create_app(app: Flask = mlflow_app) -> Any:
    """Return MLflow's server with the page of families, for ``--app-name lineage``."""
    app.register_blueprint(_blueprint(Permissions()))
    return as_server_app(app)


def create_authenticated_app(app: Flask = mlflow_app) -> Any:
    """Return the same behind MLflow's basic-auth, for ``--app-name lineage-auth``."""
    blueprint = _blueprint(Permissions(may_read_registered_model, may_read_experiment))
    app.register_blueprint(blueprint)
    for rule in app.url_map.iter_rules():
        if rule.endpoint.startswith(f"{blueprint.name}."):
            allow_route(rule.rule)  # our views check permissions themselves
    return behind_basic_auth(app)


def _blueprint(permissions: Permissions) -> Blueprint:
    """Return all routes, for users with these permissions."""
    routes = Blueprint("lineage", __name__)
    families = FamilyReader()

    def add_route(path: str, view: Callable[[], Any]) -> None:
        endpoint = path.replace("/", "-").replace(".", "-")
        routes.add_url_rule(with_static_prefix(path), endpoint, view, methods=["GET"])

    def add_data_route(name: str, read: Callable[[], dict[str, Any] | bytes]) -> None:
        add_route(f"{_DATA_PATH}/{name}", lambda: _data_response(read))

    def add_file_route(name: str, media_type: str) -> None:
        add_route(f"{_PAGE_PATH}/{name}", lambda: _file_response(page_asset(name), media_type))

    def requested_family() -> str:
        name = _parameter("name")
        if not permissions.may_read_model(name):
            raise _ForbiddenError(f"You may not read the family '{name}'; ask its owner for permission.")
        return name

    def settings() -> dict[str, Any]:
        version = _parameter("version")
        return families.settings(requested_family(), version, permissions.may_read_runs)

    def images() -> bytes:
        version = _parameter("version")
        return families.images(requested_family(), version, permissions.may_read_runs)

    def pictures() -> dict[str, Any]:
        version, rows = _parameter("version"), _parameter("rows")
        return families.pictures(requested_family(), version, rows, permissions.may_read_runs)

    add_route(_PAGE_PATH, lambda: _file_response(served_page(), "text/html"))
    add_route(f"{_PAGE_PATH}/", lambda: redirect(with_static_prefix(_PAGE_PATH)))
    add_file_route(STYLE, "text/css")
    for module in module_names():
        add_file_route(module, "text/javascript")
    add_data_route(
        "families", lambda: families.overview(permissions.may_read_model, permissions.may_read_runs)
    )
    may_read = (permissions.may_read_model, permissions.may_read_runs)
    add_data_route("family", lambda: families.document(requested_family(), *may_read))
    add_data_route("growing", lambda: families.progress(requested_family(), permissions.may_read_runs))
    add_data_route("settings", settings)
    add_data_route("images", images)
    add_data_route("pictures", pictures)
    return routes


class _ForbiddenError(LineageError):
    """The user has no permission to read the family."""


def _parameter(name: str) -> str:
    value = request.args.get(name, "")
    if not value:
        raise UsageError(f"The address must have the parameter '{name}', but has none.")
    return value


def _data_response(read: Callable[[], dict[str, Any] | bytes]) -> Response:
    """Return the data that ``read`` gives, JSON packed by gzip or to be packed, or an error's message."""
    select_server_stores()
    status = 200
    try:
        body = read()
    except _ForbiddenError as error:
        body, status = {"error": str(error)}, 403
    except (NotFoundError, UsageError) as error:
        body, status = {"error": str(error)}, 404 if isinstance(error, NotFoundError) else 400
    except LineageError:  # its message may name the store, which only the server's administrator may know
        _logger.exception("A family could not be read")
        body, status = {"error": "The registry cannot be read; the server's log says why."}, 503
    packed = body if isinstance(body, bytes) else gzip.compress(json.dumps(body).encode(), 5)
    return _response(packed, "application/json", status)


def _file_response(text: str, media_type: str) -> Response:
    """Return one of the page's files, or status 304 if the browser already has it."""
    content = text.encode()
    response = _response(gzip.compress(content, 9, mtime=0), f"{media_type}; charset=utf-8", 200)
    response.set_etag(hashlib.sha256(content).hexdigest())
    response.make_conditional(request)
    return response


def _response(packed: bytes, media_type: str, status: int) -> Response:
    """Return a response with ``packed`` as it is, or unpacked for the rare client without gzip."""
    accepts_gzip = "gzip" in request.headers.get("Accept-Encoding", "")
    response = Response(packed if accepts_gzip else gzip.decompress(packed), status, content_type=media_type)
    if accepts_gzip:
        response.headers["Content-Encoding"] = "gzip"
    response.headers["Cache-Control"] = "no-cache"
    response.headers["Vary"] = "Accept-Encoding"
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    return response
