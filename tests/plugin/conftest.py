"""Airflow's api-server in this process, with our plugin in it, as several users; and a browser."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from serving import serving

from magichour_provider.emulator import Emulator

if TYPE_CHECKING:
    from fastapi import FastAPI
    from playwright.sync_api import Page
    from starlette.testclient import TestClient

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TABLES = ("task_state_store", "xcom", "rendered_task_instance_fields", "task_instance", "dag_run")


@pytest.fixture
def airflow(api_server: FastAPI) -> FastAPI:
    """Airflow's app with the plugin in it, and an empty database."""
    from airflow.utils.session import create_session
    from sqlalchemy import inspect, text

    from magichour_provider.plugin import index

    index.shared = index.Index()
    with create_session() as session:
        known = inspect(session.connection()).get_table_names()
        for table in filter(known.__contains__, TABLES):
            session.execute(text(f"delete from {table}"))
    return api_server


@pytest.fixture
def fresh_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request reads what has changed since the last one."""
    monkeypatch.setattr("magichour_provider.plugin.index.Index.refresh.__kwdefaults__", {"max_age": 0.0})


def token(role: str = "ADMIN", teams: list[str] | None = None) -> str:
    """The token of a user of Airflow's simple auth manager."""
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    of_teams = {"teams": teams} if teams else {}  # from Airflow 3.2
    return get_auth_manager().generate_jwt(SimpleAuthManagerUser(username=role, role=role, **of_teams))


@pytest.fixture
def client(airflow: FastAPI) -> Callable[..., TestClient]:
    """A browser without pages: ``client("VIEWER").get("/magichour/")``."""
    from starlette.testclient import TestClient

    def of(role: str | None = "ADMIN", teams: list[str] | None = None) -> TestClient:
        headers = {"Authorization": f"Bearer {token(role, teams)}"} if role else {}
        return TestClient(airflow, headers=headers, follow_redirects=False)

    return of


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """Magic Hour, behind ``magichour_default``."""
    with Emulator(render="stub", progression="instant") as emulator:
        monkeypatch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", emulator.connection_json)
        yield emulator


@pytest.fixture(scope="module")
def tab(served: str) -> Iterator[Page]:
    """
    One tab of a signed-in browser for each module: to open one takes a second of processor time. While it
    exists, no other event loop can run in this thread.
    """
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        context = browser.new_context(base_url=served)
        context.add_cookies([{"name": "_token", "value": token(), "url": served}])
        page = context.new_page()
        page.set_default_timeout(300_000)  # a crowded machine is slow
        yield page
        browser.close()


@pytest.fixture(scope="session")
def served(api_server: FastAPI) -> Iterator[str]:
    """The address of the api-server."""
    with serving(api_server) as address:
        yield address


@contextmanager
def without_problems(page: Page) -> Iterator[None]:
    """A script error or a violation of the security policy fails the test."""
    problems: list[str] = []
    listeners: dict[Any, Callable[[Any], None]] = {
        "pageerror": lambda error: problems.append(str(error)),
        "console": lambda line: problems.append(line.text) if "Security Policy" in line.text else None,
    }
    for event, listener in listeners.items():
        page.on(event, listener)
    yield
    for event, listener in listeners.items():
        page.remove_listener(event, listener)
    assert problems == []


@pytest.fixture
def page(tab: Page, airflow: FastAPI, fresh_reads: None) -> Iterator[Page]:
    """An empty page."""
    tab.goto("about:blank")
    tab.set_viewport_size({"width": 1400, "height": 900})
    tab.emulate_media(color_scheme="light")
    try:
        with without_problems(tab):
            yield tab
    finally:
        tab.unroute_all()


@pytest.fixture
def clock_page(tab: Page, served: str, airflow: FastAPI, fresh_reads: None) -> Iterator[Page]:
    """An empty page whose clock a test can set. The clock belongs to the window, so this opens another."""
    assert tab.context.browser is not None
    context = tab.context.browser.new_context(base_url=served)
    context.add_cookies([{"name": "_token", "value": token(), "url": served}])
    page = context.new_page()
    page.set_default_timeout(300_000)
    page.clock.install()
    try:
        with without_problems(page):
            yield page
    finally:
        context.close()
