"""The app of the plugin: pages that only read, behind Airflow's permissions, and the webhooks' endpoint."""

from __future__ import annotations

from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from magichour_provider.plugin import views, webhooks

if TYPE_CHECKING:
    from fastapi import Request, Response

# Airflow does not check permissions for a plugin's app. This checks each page: for the DAG in its path or
# query, or for any DAG if there is none in them.
READS_JOBS = Depends(requires_access_dag(method="GET", access_entity=DagAccessEntity.XCOM))

ERRORS = {
    HTTPStatus.UNAUTHORIZED: "Sign in to Airflow, then reload this page.",
    HTTPStatus.FORBIDDEN: "You may not read the XComs of this DAG. Ask an administrator of Airflow.",
    HTTPStatus.NOT_FOUND: "There is no such page.",
}


@cache
def studio() -> FastAPI:
    """The app, made at the first request."""
    app = FastAPI(title="Magic Hour", docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(views.router, dependencies=[READS_JOBS])
    app.include_router(webhooks.router)  # it checks the sender's signature instead
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))  # holds nothing secret
    app.add_exception_handler(HTTPException, _error_page)
    app.add_exception_handler(RequestValidationError, _error_page)
    app.add_exception_handler(Exception, _error_page)
    return app


def _error_page(request: Request, error: Exception) -> Response:
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    if isinstance(error, HTTPException):
        status = HTTPStatus(error.status_code)
    elif isinstance(error, RequestValidationError):
        status = HTTPStatus.NOT_FOUND
    message = ERRORS.get(status, "Airflow could not make this page. The log of its API server says why.")
    return views.render(request, "error.html", status=status, message=message)
