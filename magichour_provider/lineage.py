"""The names of files by OpenLineage's rules, and what its provider reports about a task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from magichour_provider.api.jobs import JOBS
from magichour_provider.exceptions import JobEnded, MagicHourError
from magichour_provider.text import is_library_path

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage


def operator_lineage(
    inputs: Iterable[str], result: Mapping[str, Any], job_id: str | None, error: MagicHourError | None
) -> OperatorLineage[Any, Any]:
    """
    The datasets and facets of a task. Only OpenLineage's provider calls this, so its modules can be imported.

    :param error: the error of the task, if any; it says what was charged.
    """
    from airflow.providers.common.compat.openlineage.facet import Dataset, ExternalQueryRunFacet
    from airflow.providers.openlineage.extractors import OperatorLineage

    def datasets(*uris: str | None) -> list[Any]:
        named = [_named(uri) for uri in uris if uri and not uri.startswith("api-assets/")]
        return [Dataset(namespace=namespace, name=name) for namespace, name in named]

    facets: dict[str, Any] = {}
    if job_id:
        facets["externalQuery"] = ExternalQueryRunFacet(externalQueryId=job_id, source="magichour")
    if job_id or error:
        facets["magichour_job"] = _job_facet()(
            job_id=job_id,
            charged=error.charged if error else "yes",
            credits=error.credits if error else result.get("credits_charged"),
            error=type(error).__name__ if error else None,
            error_code=error.code if isinstance(error, JobEnded) else None,
        )
    # The vendor's library has a voice or an image too, and the next task may take it from there.
    files = result.get("output_paths", [result.get("output_path")])
    kept = [result.get(spec.result_field) for spec in JOBS.values() if spec.result_field]
    return OperatorLineage(inputs=datasets(*inputs), outputs=datasets(*files, *kept), run_facets=facets)


@cache
def _job_facet() -> Any:
    """Our own facet: the job of a run, and its cost."""
    from airflow.providers.common.compat.openlineage.facet import RunFacet
    from attrs import define

    @define
    class MagicHourJobRunFacet(RunFacet):
        """
        :ivar charged: ``yes``, ``no``, ``refunded`` or ``unknown``.
        :ivar credits: the credits that were charged or refunded, or are possibly charged.
        :ivar error: the name of the error in ``magichour_provider.exceptions``.
        :ivar error_code: the vendor's code, such as ``no_source_face``.
        """

        job_id: str | None
        charged: str
        credits: float | None
        error: str | None
        error_code: str | None

    return MagicHourJobRunFacet


def asset_uri(place: str) -> str:
    """The URI of an asset, without a connection id and without the signature of a URL."""
    namespace, name = _named(place)
    return Path(name).as_uri() if namespace == "file" else f"{namespace}/{name}"


def _named(uri: str) -> tuple[str, str]:
    """Namespace and name by OpenLineage's rules, without a connection id and the signature of a URL."""
    parts = urlsplit(uri)
    if parts.scheme in ("", "file"):
        return "file", uri.removeprefix("file://")
    query = f"?{parts.query}" if is_library_path(parts.path) else ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", parts.path.lstrip("/") + query
