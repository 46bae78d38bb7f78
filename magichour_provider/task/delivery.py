"""Delivers what a job made: downloads its files to ``output_path``, and describes them to the next task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from magichour_provider import telemetry
from magichour_provider.api import wire
from magichour_provider.exceptions import InvalidInput, MagicHourError, StorageFailed
from magichour_provider.files import duration
from magichour_provider.files.storage import Source, Target
from magichour_provider.task.journal import Journal

if TYPE_CHECKING:
    from airflow.sdk import Context

    from magichour_provider.api.models import Job
    from magichour_provider.task.wait import JobMixin


class Delivery:
    """The result of one job, for one task instance."""

    def __init__(self, operator: JobMixin, context: Context, job_id: str) -> None:
        self._operator = operator
        self._context = context
        self._job_id = job_id
        self._spec = operator.spec
        self.log = operator.log

    def deliver(self) -> tuple[Job, dict[str, Any]]:
        """
        Download the files, if there is an ``output_path``.

        :returns: the job, and what the task returns.
        :raises JobEnded: the job made nothing.
        :raises TransferFailed: the file stays at Magic Hour; a retry is free.
        """
        job, place = self._downloaded() if self._operator.output_path else self._located()
        result = {
            "job_id": self._job_id,
            "status": job.status,
            "credits_charged": job.credits_charged,
            **place,
            **self._described(job, place),
        }
        return job, result

    def _located(self) -> tuple[Job, dict[str, Any]]:
        """Without an ``output_path``, the result has signed URLs."""
        job, downloads = self._operator.hook.client.completed(self._job_id, self._operator.job_type)
        first = downloads[0]
        place: dict[str, Any] = {"download_url": first.url, "download_url_expires_at": first.expires_at}
        if self._spec.has_several_files:
            place["download_urls"] = [download.url for download in downloads]
        return job, place

    def _downloaded(self) -> tuple[Job, dict[str, Any]]:
        operator, job_id, spec = self._operator, self._job_id, self._spec
        folder_or_file = Target(str(operator.output_path), operator.replace)
        targets = operator.hook.targets(job_id, folder_or_file, operator.job_type)
        try:
            for number, target in enumerate(targets):
                claimed = self._claimed(target)
                self.log.info("Downloading the %s of job %s to %s", spec.noun, job_id, target.uri)
                job = operator.hook.client.download(job_id, claimed, operator.job_type, number=number)
        except (InvalidInput, StorageFailed) as error:
            raise error.copied(
                f"{error}. The {spec.noun} of job {job_id} stays at Magic Hour: fix this, then clear "
                "the task to download it",
                job_id=job_id,
                charged="yes",
            ) from error
        if spec.has_several_files and len(job.downloads) > len(targets):
            self.log.warning(
                "Job %s has made %d files, and output_path=%s is one: the first is there. End output_path in "
                "'/' to download all",
                job_id,
                len(job.downloads),
                operator.output_path,
            )
        place: dict[str, Any] = {"output_path": targets[0].uri}
        if spec.has_several_files:
            place["output_paths"] = [target.uri for target in targets]
        return job, place

    def _claimed(self, target: Target) -> Target:
        """
        Record that this task writes the file. A file that exists may be replaced only if an earlier try of
        this task began to write it.
        """
        if target.replace:
            return target
        journal = Journal.of(self._context)
        if journal.is_own_delivery(self._job_id, target.uri):
            return Target(target.uri, replace=True)
        target.check()
        journal.record_delivery(self._operator.recorded_job(journal, self._job_id), target.uri)
        return target

    def _described(self, job: Job, place: dict[str, Any]) -> dict[str, Any]:
        described: dict[str, Any] = {}
        if self._spec.result_field:
            described[self._spec.result_field] = wire.library_url(job.job_id, self._operator.job_type)
        if self._spec.is_audio:
            described["duration_seconds"] = self._measured(job, place)
        if self._spec.has_clip:
            described |= {
                "duration_seconds": job.clip_seconds,
                "width": _pixels(job.width),
                "height": _pixels(job.height),
                "fps": job.fps,
            }
        return described

    def _measured(self, job: Job, place: dict[str, Any]) -> float | None:
        """The duration of a voice, which the API does not return; None if it cannot be measured."""
        try:
            if uri := place.get("output_path"):
                return duration.of_file(Source.find("output_path", "audio", uri))
            return duration.of_job(job.job_id, self._operator.hook.client)
        except MagicHourError as error:
            self.log.warning("Job %s: duration_seconds is not known: %s", job.job_id, error)
            return None


def size_of(result: dict[str, Any]) -> dict[str, int]:
    """The size of the delivered files in bytes, if it is known."""
    with telemetry.best_effort("The size of the file is not known"):
        if uris := result.get("output_paths", [result["output_path"]] if "output_path" in result else []):
            return {"size_bytes": sum(Source.find("output_path", "image", uri).size for uri in uris)}
    return {}


def _pixels(value: int | None) -> int | None:
    return value if value and value > 0 else None  # -1 is the vendor's "not known"
