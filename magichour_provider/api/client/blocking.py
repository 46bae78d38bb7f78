"""The blocking client over httpx: all calls, uploads and downloads. Workers use it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, Self, TypeVar, assert_never, cast

import httpx
import tenacity

from magichour_provider.api import flows, models, retries, wire
from magichour_provider.api.client.answers import AnswerBody, Answers, describe_error, safe_cause
from magichour_provider.api.client.settings import (
    IDENTITY,
    Settings,
    api_proxy,
    check_base_url,
    translate_proxy_errors,
)
from magichour_provider.api.client.tracking import SendTracker
from magichour_provider.api.flows import Flow, Sleep, Source, Target
from magichour_provider.api.integrity import BadDownload, DownloadValidator, download_failed
from magichour_provider.api.jobs import JobType, job_spec
from magichour_provider.api.polling import RateLimiter
from magichour_provider.exceptions import DownloadFailed, MagicHourError, RequestFailed
from magichour_provider.text import host_of

T = TypeVar("T")

# UnicodeError: a host name that DNS cannot hold, such as "a..b".
TRANSPORT_ERRORS = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, UnicodeError)
MAX_REDIRECTS = 5  # redirects of one upload


class MagicHourClient:
    """
    The API, for blocking code. Close the client, or use it in a ``with``.

    .. versionadded:: 0.1.0

    :raises RequestFailed: from every method; the subclass says why; nothing was charged.
    """

    def __init__(self, settings: Settings) -> None:
        _silence_httpx()
        self._settings = settings
        self._tls = settings.ssl_context()
        self._headers = httpx.Headers(settings.headers())
        self._timeout = httpx.Timeout(settings.timeout, connect=settings.connect_timeout, pool=None)
        check_base_url(settings)
        with translate_proxy_errors():
            proxy = api_proxy(settings)
            self._proxy = httpx.Proxy(proxy) if proxy else None
            self._connection().close()  # raises the errors of its arguments before the first call
            self._storage = self._storage_client()
        self._answers = Answers(settings, proxy)
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
        retry_429_seconds: float = retries.RETRY_429_SECONDS,
        pausing: Callable[[bool], object] = bool,
    ) -> models.Submission:
        """
        Start a paid job and return at once.

        :param call: from ``wire.paid_call``.
        :param retry_429_seconds: how long to repeat the call while the API answers 429 (too many requests).
        :param pausing: called with True when a pause between two attempts begins, and with False before the
            next attempt. During a pause no call is in progress.
        :returns: the accepted job; ``credits_charged`` is an estimate until it is complete.
        :raises InsufficientCredits: HTTP 402; nothing was charged; permanent.
        :raises RateLimited: HTTP 429 for all that time; nothing was charged; retryable.
        :raises SubmissionUncertain: the call was sent, and no answer arrived; a job may exist; the call is
            not repeated.

        Source: POST /v1/<tool>.
        """
        call = replace(call, strict=self._settings.strict)
        repeated = partial(self._perform, partial(self._call, call), retries.retry_submit(pausing))
        return tenacity.Retrying(**retries.retry_429(retry_429_seconds, pausing))(repeated)

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
        **options: Any,
    ) -> models.Job:
        """
        Poll until the job has ended, with or without a result; free.

        :param deadline: seconds since the epoch.
        :param poll_interval: seconds between two polls; default: the connection's value, or the schedule.
        :param mode: the generation mode, if it is known. The schedule learns render times for each mode.
        :param clip_seconds: the length of the clip, if it is known. The schedule learns render times for each
            length.
        :param options: see ``flows.wait``.
        :raises WaitTimeout: the job has not ended in time. It continues, and you can wait for it again.
        :raises NotFound: the account does not know the job.
        :raises Unauthorized: the key is not accepted.
        """
        schedule = self._settings.schedule(
            poll_interval, job_type=job_type, mode=mode, clip_seconds=clip_seconds
        )
        return self._run(
            flows.wait(job_id, deadline=deadline, schedule=schedule, limiter=self._limiter, **options)
        )

    def upload(
        self, sources: Sequence[Source], *, retry_429_seconds: float = retries.RETRY_429_SECONDS
    ) -> list[str]:
        """
        Put files into Magic Hour's storage, where they are kept for 7 days; free.

        :param retry_429_seconds: how long to repeat the call while the API answers 429 (too many requests).
        :returns: their ``api-assets/`` paths, in the order of ``sources``.
        :raises UploadFailed: nothing was charged; retryable.

        Source: POST /v1/files/upload-urls, then PUT.
        """
        done: dict[int, str] = {}
        return self._perform(partial(self._upload, sources, done), retries.RETRY_TRANSFER, retry_429_seconds)

    def completed(
        self, job_id: str, job_type: JobType = "video", *, once: bool = False
    ) -> tuple[models.Job, list[models.Download]]:
        """
        A complete job, and its downloads with new signed URLs; free.

        :param once: raise the first error, and do not repeat the call.
        :returns: at least one download. Files of the job's type come first.
        :raises DownloadFailed: there is no URL (yet); the job is paid for; retryable.
        :raises JobEnded: the job has made nothing.
        """
        return self._perform(
            partial(self._completed, job_id, job_type),
            retries.NO_RETRY if once else retries.RETRY_TRANSFER,
            0.0 if once else retries.RETRY_429_SECONDS,
        )

    def download(
        self, job_id: str, target: Target, job_type: JobType = "video", *, number: int = 0
    ) -> models.Job:
        """
        Download the file of a complete job to ``target``, free. If the download fails, nothing is written.

        :param number: the index of the file, if such a job makes several; the first is 0.
        :raises DownloadFailed: the job is paid for, and its file stays at Magic Hour; retryable.
        :raises JobEnded: the job has made nothing.
        """
        return self._perform(
            partial(self._download, job_id, target, job_type, number),
            retries.RETRY_TRANSFER,
            retries.RETRY_429_SECONDS,
        )

    def delete(self, job_id: str, job_type: JobType = "video") -> None:
        """
        Delete the file of the job permanently. This does not cancel a job, and nothing is refunded.

        Source: DELETE /v1/{video,audio,image}-projects/{id}.
        """
        self._perform(partial(self._call, wire.delete_job(job_id, job_type)))

    def account(self, *, once: bool = False) -> models.Account:
        """
        The key's account: its tier and the remaining credits; free.

        :param once: raise the first error, and do not repeat the call.

        Source: GET /v1/account.
        """
        policy = retries.NO_RETRY if once else retries.RETRY_SAFE
        return self._perform(partial(self._call, wire.get_account()), policy)

    def _perform(
        self,
        attempt: Callable[[], T],
        policy: dict[str, Any] = retries.RETRY_SAFE,
        retry_429_seconds: float = 0.0,
    ) -> T:
        repeated = partial(tenacity.Retrying(**policy), attempt)
        if not retry_429_seconds:
            return repeated()
        return tenacity.Retrying(**retries.retry_429(retry_429_seconds))(repeated)

    def _run(self, flow: Flow[T]) -> T:
        """Execute the steps of a flow: see ``flows``."""
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
        """
        Get all upload URLs with one call, then upload all files in parallel.

        :param done: the paths of the files that an earlier attempt uploaded; they are not sent again.
        """
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
        finally:  # not "with": a task that is stopped must not wait for a slow upload
            threads.shutdown(wait=False)
        for number, slot, problem in zip(missing, slots, problems, strict=True):
            if problem is None:
                done[number] = slot.file_path
        for problem in filter(None, problems):
            raise problem
        return [done[number] for number in range(len(sources))]

    def _completed(self, job_id: str, job_type: JobType) -> tuple[models.Job, list[models.Download]]:
        """See ``completed``. The job is paid for, so a failed poll becomes a retryable error."""
        try:
            job = self._call(wire.get_job(job_id, job_type))
        except RequestFailed as error:
            why = f"the API gave no download URL ({error})"
            raise download_failed(job_id, why, error.status_code, job_type) from error
        job.raise_unless_complete()
        downloads = flows.downloads_in_order(job, job_type)
        if not downloads:
            why = f"the job is {job.status}, but the API gives no download URL (yet)"
            raise download_failed(job_id, why, job_type=job_type)
        return job, downloads

    def _download(self, job_id: str, target: Target, job_type: JobType, number: int) -> models.Job:
        """
        Get new URLs, because signed URLs expire, and download the file.

        If a URL does not lead to a file of this type, the next URL is tried. After a failed transfer it is
        not tried: it may lead to a smaller copy.
        """
        job, downloads = self._completed(job_id, job_type)
        if job_spec(job_type).has_several_files:
            downloads = downloads[number : number + 1]
            if not downloads:
                why = f"the API now gives {len(job.downloads)} URLs, and this is file {number + 1}"
                raise download_failed(job_id, why, job_type=job_type)
        problems: list[BadDownload] = []
        for download in downloads:
            try:
                self._fetch(download.url, target, job_id, job_type)
            except BadDownload as error:
                problems.append(error)
            else:
                return job
        raise DownloadFailed(str(problems[0]), status_code=problems[0].status_code, job_id=job_id)

    def _connection(self) -> httpx.HTTPTransport:
        """A new connection to the API's host. A transport follows no redirect, so the key stays there."""
        return httpx.HTTPTransport(
            verify=self._tls, proxy=self._proxy, limits=httpx.Limits(max_connections=1)
        )

    def _storage_client(self) -> httpx.Client:
        """The client for signed URLs. It does not have the key."""
        return httpx.Client(
            verify=self._tls,
            proxy=self._settings.proxy,
            timeout=self._timeout,
            follow_redirects=True,
            # Keep no connection: uploads run in parallel, and the download follows minutes later.
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    def _request(self, call: wire.Call[Any], trace: Callable[..., Any]) -> httpx.Request:
        return httpx.Request(
            call.method,
            self._settings.url(call.path),
            headers=self._headers,
            content=call.body,
            extensions={"timeout": self._timeout.as_dict(), "trace": trace},
        )

    def _call(self, call: wire.Call[T]) -> T:
        tracker = SendTracker()
        try:
            # A new connection for each call: calls are so far apart that a kept one would mostly be closed.
            with tracker.limit(self._settings.timeout), self._connection() as connection:
                response = connection.handle_request(self._request(call, tracker.trace))
                body = AnswerBody(response.headers)
                for chunk in response.iter_raw():
                    if not body.feed(chunk) or tracker.is_expired:
                        break
        except (TimeoutError, *TRANSPORT_ERRORS) as error:
            self._answers.no_answer(call, error, sent=tracker.sent, timed_out=tracker.is_expired)
        return self._answers.answer(call, response.status_code, response.headers, body)

    def _put(self, url: str, source: Source) -> None:
        length = {"Content-Length": str(source.size)}
        try:
            for _ in range(1 + MAX_REDIRECTS):
                response = self._storage.put(
                    url, content=source.chunks(), headers=length, follow_redirects=False
                )
                if not (elsewhere := _redirect_target(response)):
                    break
                url = elsewhere
        except TRANSPORT_ERRORS as error:
            why = f"{host_of(url)}: {describe_error(error)}"
            raise flows.upload_failed(source, why) from safe_cause(error)
        if not response.is_success:
            # The body is not shown: it is the storage host's, and may repeat the signature.
            status = response.status_code
            why = f"the storage host {response.url.host} answered HTTP {status}"
            raise flows.upload_failed(source, why, status)

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
        except TRANSPORT_ERRORS as error:
            error_cls = BadDownload if isinstance(error, httpx.InvalidURL | UnicodeError) else DownloadFailed
            why = f"{host_of(url)}: {describe_error(error)}"
            raise download_failed(job_id, why, job_type=job_type, error_cls=error_cls) from safe_cause(error)


def _redirect_target(response: httpx.Response) -> str | None:
    """
    The new URL of an upload, if the storage host redirects it, as S3 does for another region.

    Never from https to http: that would show the file to the network.
    """
    if response.status_code not in (301, 302, 307, 308) or "location" not in response.headers:
        return None
    url = response.url.join(response.headers["location"])
    return str(url) if url.scheme in ("https", response.url.scheme) else None


def _silence_httpx() -> None:
    """httpx logs URLs with their signatures at INFO; httpcore logs headers at DEBUG."""
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
