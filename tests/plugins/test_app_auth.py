from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow import MlflowClient
from playwright.sync_api import Browser, expect

PASSWORD = "correct horse battery staple"
PREFIX = "/team"
DATA = f"{PREFIX}/ajax-api/3.0/lineage"
USERS = ("reader", "half", "stranger")


@pytest.fixture(scope="module")
def site(
    store: Any,
    tmp_path_factory: pytest.TempPathFactory,
    serve_families: Callable[..., AbstractContextManager[str]],
) -> Iterator[str]:
    """Host and port of a server behind basic-auth, below a prefix.

    ``reader`` may read the family and its runs, ``half`` the family alone, ``stranger`` neither.
    """
    folder: Path = tmp_path_factory.mktemp("auth")
    config = folder / "auth.ini"
    config.write_text(
        "[mlflow]\n"
        "default_permission = NO_PERMISSIONS\n"
        f"database_uri = sqlite:///{folder / 'auth.db'}\n"
        "admin_username = admin\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    variables = {
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "for tests",
        "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true",
    }
    experiment = MlflowClient(store.uri).get_experiment_by_name("digits")
    assert experiment is not None
    with serve_families(store.uri, folder, app="lineage-auth", prefix=PREFIX, **variables) as address:
        for user in USERS:
            _post(f"{address}/api/2.0/mlflow/users/create", username=user, password=PASSWORD)
        grants = [("reader", "registered_model", "digits"), ("half", "registered_model", "digits")]
        for user, kind, resource in [*grants, ("reader", "experiment", experiment.experiment_id)]:
            grant = {"username": user, "resource_type": kind, "resource_id": resource, "permission": "READ"}
            _post(f"{address}/api/3.0/mlflow/users/permissions/grant", **grant)
        yield address.removesuffix(PREFIX)


def _post(address: str, **body: str) -> None:
    answer = requests.post(address, json=body, auth=("admin", PASSWORD), timeout=60)
    assert answer.ok, answer.text


def ask(site: str, user: str, what: str, **parameters: str) -> requests.Response:
    return requests.get(f"{site}{DATA}/{what}", parameters, auth=(user, PASSWORD), timeout=60)


@pytest.mark.parametrize(
    ("user", "names"),
    [("admin", 2), ("reader", 1), ("half", 1), ("stranger", 0)],
)
def test_list_shows_what_a_user_may_read(site: str, user: str, names: int) -> None:
    families = ask(site, user, "families").json()["families"]
    assert len(families) == names
    assert [family["name"] for family in families if family["name"] == "digits"] == ["digits"] * (names > 0)


def test_nothing_answers_without_a_password(site: str) -> None:
    pages = (f"{PREFIX}/lineage", f"{PREFIX}/lineage/main.js", f"{PREFIX}/lineage/page.css")
    for path in (*pages, f"{DATA}/families", f"{DATA}/family?name=digits"):
        assert requests.get(site + path, timeout=60).status_code == 401
        assert requests.get(site + path, auth=("reader", "wrong"), timeout=60).status_code == 401


def test_family_of_others_is_refused(site: str) -> None:
    for what in ("family", "growing", "settings", "images", "pictures"):
        answer = ask(site, "stranger", what, name="digits", version="2", rows="1")
        assert answer.status_code == 403
        assert answer.json()["error"].startswith("You may not read the family 'digits'")


def test_runs_that_may_not_be_read_are_left_out(site: str) -> None:
    kinds = {}
    for user in ("reader", "half", "reader"):  # what is kept for one is not given to another
        nodes = ask(site, user, "family", name="digits").json()["family"]["nodes"]
        kinds[user] = {node["kind"] for node in nodes}
    assert kinds["reader"] - kinds["half"] == {"growing"}
    assert ask(site, "half", "growing", name="digits").json()["growing"] == []
    settings = {user: ask(site, user, "settings", name="digits", version="4").json() for user in USERS[:2]}
    assert settings["reader"]["settings"]["training.lr"] == "0.05"
    assert settings["half"]["settings"] == {}


def test_files_of_runs_that_may_not_be_read_are_not(site: str) -> None:
    notes = {
        user: ask(site, user, "images", name="digits", version="4").json()["notes"] for user in USERS[:2]
    }
    assert notes["reader"][0].startswith("models:/digits/4 must have predictions.json")
    assert "must be in an experiment that you may read" in notes["half"][0]
    pictures = ask(site, "half", "pictures", name="digits", version="4", rows="1")
    assert (pictures.status_code, "that you may read" in pictures.text) == (404, True)


def test_page_shows_a_user_what_they_may_read_below_a_prefix(site: str, chromium: Browser) -> None:
    for user, told in (("reader", "v3"), ("stranger", "You may not read the family")):
        context = chromium.new_context(http_credentials={"username": user, "password": PASSWORD})
        page = context.new_page()
        page.goto(f"{site}{PREFIX}/lineage#/digits/3")
        expect(page.locator("main")).to_contain_text(told)
        if user == "reader":
            link = page.locator("#panel").get_by_role("link", name="Version")
            assert link.evaluate("link => link.href") == f"{site}{PREFIX}/#/models/digits/versions/3"
        context.close()


def test_nothing_can_be_written_by_anybody(site: str) -> None:
    for path in (f"{PREFIX}/lineage", f"{DATA}/family?name=digits"):
        for method in ("POST", "DELETE"):
            answer = requests.request(method, site + path, auth=("admin", PASSWORD), timeout=60)
            assert answer.status_code in (403, 405)
