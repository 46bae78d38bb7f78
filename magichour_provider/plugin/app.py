"""The plugin's FastAPI app: read-only pages behind Airflow's permissions, and the webhook endpoint."""

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

# Airflow does not check permissions for a plugin's app. This dependency checks them: for the DAG in the path
# or the query of a page. If a page names no DAG, permission for any DAG is enough.
MAY_READ_XCOMS = Depends(requires_access_dag(method="GET", access_entity=DagAccessEntity.XCOM))

ERRORS = {
    HTTPStatus.UNAUTHORIZED: "Sign in to Airflow, then reload this page.",
    HTTPStatus.FORBIDDEN: "You have no access to XComs, which this page shows. Ask an Airflow administrator.",
    HTTPStatus.NOT_FOUND: "This page does not exist.",
}


@cache
def create_app() -> FastAPI:
    """Create the app of this process. Later calls return the same one."""
    app = FastAPI(title="Magic Hour", docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(views.router, dependencies=[MAY_READ_XCOMS])
    app.include_router(webhooks.router)  # checks the sender's signature instead
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))  # nothing in it is secret
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
    message = ERRORS.get(status, "Airflow could not show this page. The log of the API server says why.")
    return views.render(request, "error.html", status=status, message=message)
