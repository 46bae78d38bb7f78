"""The API for ordinary code: the client that a worker uses."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, Self, TypeVar, assert_never, cast

import httpx
import tenacity

from magichour_provider.api import flows, models, wire
from magichour_provider.api.client.api import (
    CANNOT_TALK,
    IDENTITY,
    MAX_REDIRECTS,
    AnswerBody,
    ApiTransport,
    Settings,
    check_put,
    describe_error,
    proxy_errors,
    redirected,
    safe_cause,
    silence_httpx,
    storage_host,
)
from magichour_provider.api.client.tracking import SendTracker
from magichour_provider.api.flows import Flow, Sleep, Source, Target
from magichour_provider.api.integrity import BadDownload, DownloadValidator, download_failed
from magichour_provider.api.jobs import JobType, job_spec
from magichour_provider.api.polling import RateLimiter
from magichour_provider.exceptions import DownloadFailed, MagicHourError, RequestFailed

T = TypeVar("T")


class MagicHourClient:
    """
    The API, blocking. Close it, or use it in a ``with``.

    .. versionadded:: 0.1.0

    :raises RequestFailed: from every method; the subclass says why; nothing was charged.
    """

    def __init__(self, settings: Settings) -> None:
        silence_httpx()
        self._settings = settings
        tls = settings.ssl_context()
        with proxy_errors():
            self._api = ApiTransport(settings, tls)
            self._storage = httpx.Client(**settings.for_storage(tls))
        self._limiter = RateLimiter(settings.requests_per_second)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._storage.close()

    def submit(
        self,
        call: wire.Call[models.Submission],
        *,
        retry_429_seconds: float = flows.RETRY_429_SECONDS,
        pausing: Callable[[bool], object] = bool,
    ) -> models.Submission:
        """
        Start a paid job and return at once.

        :param call: from ``wire.create_talking_photo``, ``wire.create_voice`` or ``wire.paid_call``.
        :param retry_429_seconds: how long to repeat the call while the API answers 429 (too many requests).
        :param pausing: called with True when a pause begins in which no call is under way, and with False
            before the next call.
        :returns: the accepted job; ``credits_charged`` is an estimate until it is complete.
        :raises InsufficientCredits: HTTP 402; nothing charged; permanent.
        :raises RateLimited: HTTP 429 for all that time; nothing charged; retryable.
        :raises SubmissionUncertain: sent, no answer; a job may exist; never sent again.

        Source: POST /v1/<tool>.
        """
        call = replace(call, strict=self._settings.strict)
        repeated = partial(self._perform, partial(self._call, call), flows.retry_submit(pausing))
        return tenacity.Retrying(**flows.retry_429(retry_429_seconds, pausing))(repeated)

    def get(self, job_id: str, job_type: JobType = "video") -> models.Job:
        """
        The job as it is now; free.

        :raises NotFound: the account does not know the job.

        Source: GET /v1/{video,audio,image}-projects/{id}.
        """
        return self._perform(partial(self._call, wire.get_job(job_id, job_type)))

    def wait(
        self,
        job_id: str,
        job_type: JobType = "video",
        *,
        deadline: float,
        poll_interval: float | None = None,
        mode: str | None = None,
        clip_seconds: float | None = None,
        **how: Any,
    ) -> models.Job:
        """
        Poll until the job has ended, well or not; free.

        :param deadline: seconds since the epoch.
        :param poll_interval: seconds between two polls, rather than the connection's or the schedule's.
        :param mode: the generation mode, if it is known: the schedule learns render times by it.
        :param clip_seconds: how long the clip is, if it is known: the schedule learns render times by it too.
        :param how: see ``flows.wait``.
        :raises WaitTimeout: the job has not ended in time. It continues, and you can wait for it again.
        :raises NotFound: the account does not know the job.
        :raises Unauthorized: the key is not accepted.
        """
        schedule = self._settings.schedule(
            poll_interval, job_type=job_type, mode=mode, clip_seconds=clip_seconds
        )
        return self._run(
            flows.wait(job_id, deadline=deadline, schedule=schedule, limiter=self._limiter, **how)
        )

    def upload(
        self, sources: Sequence[Source], *, retry_429_seconds: float = flows.RETRY_429_SECONDS
    ) -> list[str]:
        """
        Put files into Magic Hour's storage, where they are kept for 7 days; free.

        :param retry_429_seconds: how long to try again while the answer is 429 (too many requests).
        :returns: their ``api-assets/`` paths, in the order of ``sources``.
        :raises UploadFailed: nothing was charged; retryable.

        Source: POST /v1/files/upload-urls, then PUT.
        """
        done: dict[int, str] = {}
        return self._perform(partial(self._upload, sources, done), flows.RETRY_TRANSFER, retry_429_seconds)

    def completed(
        self, job_id: str, job_type: JobType = "video", *, once: bool = False
    ) -> tuple[models.Job, models.Download]:
        """
        A job that has ended well, and a fresh signed URL of its file; free.

        :param once: if the API does not answer, fail at once and do not try again.
        :raises DownloadFailed: there is no URL (yet); the job is paid for; retryable.
        :raises JobEnded: the job has made nothing.
        """
        return self._perform(
            partial(self._completed, job_id, job_type),
            flows.NO_RETRY if once else flows.RETRY_TRANSFER,
            0.0 if once else flows.RETRY_429_SECONDS,
        )

    def download(
        self, job_id: str, target: Target, job_type: JobType = "video", *, number: int = 0
    ) -> models.Job:
        """
        Download the file of a complete job to ``target``, whole or not at all; free.

        :param number: which of the files, if such a job makes several; the first is 0.
        :raises DownloadFailed: it is paid for and stays at Magic Hour; retryable.
        :raises JobEnded: the job has made nothing.
        """
        return self._perform(
            partial(self._download, job_id, target, job_type, number),
            flows.RETRY_TRANSFER,
            flows.RETRY_429_SECONDS,
        )

    def delete(self, job_id: str, job_type: JobType = "video") -> None:
        """
        Delete the file of the job for ever. Not a cancel: nothing is refunded.

        Source: DELETE /v1/{video,audio,image}-projects/{id}.
        """
        self._perform(partial(self._call, wire.delete_job(job_id, job_type)))

    def account(self, *, once: bool = False) -> models.Account:
        """
        The key's account: its tier and the credits left; free.

        :param once: raise the first error and do not try again.

        Source: GET /v1/account.
        """
        policy = flows.NO_RETRY if once else flows.RETRY_SAFE
        return self._perform(partial(self._call, wire.get_account()), policy)

    def _perform(
        self,
        attempt: Callable[[], T],
        policy: dict[str, Any] = flows.RETRY_SAFE,
        retry_429_seconds: float = 0.0,
    ) -> T:
        repeated = partial(tenacity.Retrying(**policy), attempt)
        if not retry_429_seconds:
            return repeated()
        return tenacity.Retrying(**flows.retry_429(retry_429_seconds))(repeated)

    def _run(self, flow: Flow[T]) -> T:
        """Run a flow: see ``flows``."""
        try:
            step = next(flow)
            while True:
                try:
                    outcome = self._do(step)
                except MagicHourError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(outcome)
        except StopIteration as end:
            return cast(T, end.value)
        finally:
            flow.close()

    def _do(self, step: flows.Step) -> object:
        match step:
            case wire.Call():
                return self._call(step)
            case Sleep(seconds):
                time.sleep(seconds)
                return None
            case _:
                assert_never(step)

    def _upload(self, sources: Sequence[Source], done: dict[int, str]) -> list[str]:
        """One call for all upload URLs, then all files in parallel. Files in ``done`` are not sent again."""
        missing = {number: source for number, source in enumerate(sources) if number not in done}
        slots = self._call(
            wire.create_upload_slots([(source.media_type, source.extension) for source in missing.values()])
        )
        flows.check_slots(list(missing.values()), slots, done.values())
        threads = ThreadPoolExecutor(len(slots))
        try:
            puts = [
                threads.submit(self._put, slot.upload_url, source)
                for slot, source in zip(slots, missing.values(), strict=True)
            ]
            problems = [put.exception() for put in puts]
        finally:  # not a "with": a task that is stopped must not wait for a slow upload
            threads.shutdown(wait=False)
        for number, slot, problem in zip(missing, slots, problems, strict=True):
            if problem is None:
                done[number] = slot.file_path
        for problem in filter(None, problems):
            raise problem
        return [done[number] for number in range(len(sources))]

    def _completed(self, job_id: str, job_type: JobType) -> tuple[models.Job, models.Download]:
        """The job is paid for, so a failed poll is an error that can be retried."""
        try:
            job = self._call(wire.get_job(job_id, job_type))
        except RequestFailed as error:
            why = f"the API did not say where it is ({error})"
            raise download_failed(job_id, why, error.status_code, job_type) from error
        job.raise_unless_complete()
        downloads = flows.downloads_in_order(job, job_type)
        if not downloads:
            why = f"the job is {job.status}, but the API gives no download URL (yet)"
            raise download_failed(job_id, why, job_type=job_type)
        return job, downloads[0]

    def _download(self, job_id: str, target: Target, job_type: JobType, number: int) -> models.Job:
        """
        Ask where the file is, as signed URLs expire, and download it.

        If a URL does not lead to a file of this type, try the next one. If a transfer breaks, do not: the
        next one may be a smaller copy.
        """
        job, _ = self._completed(job_id, job_type)
        sources = flows.downloads_in_order(job, job_type)
        if job_spec(job_type).has_several_files:
            sources = sources[number : number + 1]
            if not sources:
                why = f"the API now gives {len(job.downloads)} URLs, and this is file {number + 1}"
                raise download_failed(job_id, why, job_type=job_type)
        problems: list[BadDownload] = []
        for source in sources:
            try:
                self._fetch(source.url, target, job_id, job_type)
            except BadDownload as error:
                problems.append(error)
            else:
                return job
        raise DownloadFailed(str(problems[0]), status_code=problems[0].status_code, job_id=job_id)

    def _call(self, call: wire.Call[T]) -> T:
        tracker = SendTracker()
        try:
            # A new connection for each call: calls are so far apart that a kept one would mostly be closed.
            with tracker.limit(self._settings.timeout), self._api.connection() as connection:
                response = connection.handle_request(self._api.request(call, tracker.trace))
                body = AnswerBody(response.headers)
                for chunk in response.iter_raw():
                    if not body.feed(chunk) or tracker.is_expired:
                        break
        except (TimeoutError, *CANNOT_TALK) as error:
            self._api.no_answer(call, error, sent=tracker.sent, timed_out=tracker.is_expired)
        return self._api.answer(call, response.status_code, response.headers, body)

    def _put(self, url: str, source: Source) -> None:
        length = {"Content-Length": str(source.size)}
        try:
            for _ in range(1 + MAX_REDIRECTS):
                response = self._storage.put(
                    url, content=source.chunks(), headers=length, follow_redirects=False
                )
                if not (elsewhere := redirected(response)):
                    break
                url = elsewhere
        except CANNOT_TALK as error:
            why = f"{storage_host(url)}: {describe_error(error)}"
            raise flows.upload_failed(source, why) from safe_cause(error)
        check_put(source, response)

    def _fetch(self, url: str, target: Target, job_id: str, job_type: JobType) -> None:
        try:
            with self._storage.stream("GET", url, headers=IDENTITY) as response:
                validator = DownloadValidator(
                    job_id,
                    response.status_code,
                    response.headers,
                    job_spec(job_type).integrity,
                    host=response.url.host,
                    job_type=job_type,
                )
                with target.open_atomic() as write:
                    for chunk in response.iter_raw():
                        for piece in validator.feed(chunk):
                            write(piece)
                    validator.close()
        except CANNOT_TALK as error:
            error_cls = BadDownload if isinstance(error, httpx.InvalidURL | UnicodeError) else DownloadFailed
            why = f"{storage_host(url)}: {describe_error(error)}"
            raise download_failed(job_id, why, job_type=job_type, error_cls=error_cls) from safe_cause(error)
