"""``MagicHourHook``: the API through an Airflow connection, for a PythonOperator; the connection's *Test*."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from magichour_provider.api import events, models, wire
from magichour_provider.api.client import MagicHourClient, Settings
from magichour_provider.api.diagnosis import diagnosis
from magichour_provider.api.inputs import (
    EXTENSIONS,
    Inputs,
    TalkingPhotoInputs,
    VoiceInputs,
    extension_of,
    is_remote,
)
from magichour_provider.api.jobs import JobType, job_spec
from magichour_provider.api.tools import ToolInputs
from magichour_provider.connection import (
    CONN_TYPE,
    connection_type,
    no_such_connection,
    read_settings,
    settings_from_connection,
    webhook_secrets,
)
from magichour_provider.exceptions import InvalidInput, MagicHourError, RequestFailed
from magichour_provider.files import duration
from magichour_provider.files.places import uri_of
from magichour_provider.files.storage import Source, Target

if TYPE_CHECKING:
    from magichour_provider.api.client.asynchronous import AsyncMagicHourClient

MAX_TEST_SECONDS = 10.0  # seconds that a person waits for the Test button


class MagicHourHook(BaseHook):
    """
    Magic Hour through an Airflow connection: API key in the password, base URL in the host.

    Extras: ``timeout`` and ``poll_interval`` (seconds), ``requests_per_second`` (of all polls of one
    triggerer), ``proxy`` (URL), ``verify`` (true, false, or the path of a CA bundle), ``strict`` (true: a 502
    or 503 does not prove that no job was made), ``webhook_secret``.

    .. versionadded:: 0.1.0

    :param magichour_conn_id: the Airflow connection; it is read when it is first needed.
    """

    conn_name_attr = "magichour_conn_id"
    default_conn_name = "magichour_default"
    conn_type = CONN_TYPE
    hook_name = "Magic Hour"

    def __init__(self, magichour_conn_id: str = "magichour_default", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.magichour_conn_id = magichour_conn_id

    @cached_property
    def settings(self) -> Settings:
        """
        The connection, read and checked.

        :raises InvalidConnection: names what is wrong with the connection, and the remedy; nothing was sent.
        """
        try:
            return settings_from_connection(self.get_connection(self.magichour_conn_id))
        except AirflowNotFoundException as error:
            raise no_such_connection(self.magichour_conn_id) from error

    @cached_property
    def client(self) -> MagicHourClient:
        """The blocking client; its methods are this hook's, without Airflow."""
        return MagicHourClient(self.settings)

    def get_conn(self) -> MagicHourClient:
        return self.client

    def submit(self, *, name: str = "Talking Photo", **inputs: Any) -> models.Submission:
        """
        Start a paid render, and return at once. Two calls pay twice; the operator prevents that.

        :param name: the job's name in the vendor's library.
        :param inputs: those of ``TalkingPhotoOperator``: ``image_file_path``, ``audio_file_path``,
            ``end_seconds`` and so on. Photo and voice must be URLs, or paths that ``upload`` has returned.
        :returns: the accepted job; ``credits_charged`` is an estimate until it is complete.
        :raises InvalidInput: nothing was sent.
        :raises InsufficientCredits: HTTP 402; nothing charged; permanent.
        :raises SubmissionUncertain: sent, and the answer was lost; a job may exist; never repeated.

        Source: POST /v1/ai-talking-photo.
        """
        checked = TalkingPhotoInputs.checked({"name": name, **inputs})
        _check_uploaded(checked)
        return self._submit(duration.fill_end_seconds(checked, self.client), checked.name or name)

    def submit_voice(
        self, *, prompt: str, voice_name: str, name: str = "Voice Generator"
    ) -> models.Submission:
        """
        Turn a text into a voice, and return at once. The job has the type ``audio``. Two calls pay twice; the
        operator prevents that.

        :param prompt: the text, of at most 1000 characters.
        :param voice_name: one of the vendor's voices.
        :param name: the job's name in the vendor's library.
        :returns: the accepted job; ``credits_charged`` is an estimate until it is complete.
        :raises InvalidInput: nothing was sent.
        :raises InsufficientCredits: HTTP 402; nothing charged; permanent.
        :raises SubmissionUncertain: sent, and the answer was lost; a job may exist; never repeated.

        Source: POST /v1/ai-voice-generator.
        """
        checked = VoiceInputs.checked({"prompt": prompt, "voice_name": voice_name, "name": name})
        return self._submit(checked, checked.name or name)

    def submit_tool(self, tool: str, body: Mapping[str, Any]) -> models.Submission:
        """
        Call any tool of Magic Hour, and return at once. Two calls pay twice; the operator prevents that.

        :param tool: its name in the path of the paid call, such as ``face-swap``.
        :param body: the request, in the vendor's JSON. Files must be URLs or have been uploaded: see
            ``upload``.
        :returns: the accepted job; ``credits_charged`` is an estimate until it is complete.
        :raises InvalidInput: nothing was sent.
        :raises InsufficientCredits: HTTP 402; nothing charged; permanent.
        :raises SubmissionUncertain: sent, and the answer was lost; a job may exist; never repeated.

        Source: POST /v1/<tool>.
        """
        checked = ToolInputs.checked({"tool": tool, "body": body})
        _check_uploaded(checked)
        return self._submit(checked, checked.name)

    def _submit(self, inputs: Inputs, name: str | None) -> models.Submission:
        for warning in inputs.warnings():
            self.log.warning(warning)
        return self.client.submit(wire.paid_call(inputs, {}, name))

    def get(self, job_id: str, *, job_type: JobType = "video") -> models.Job:
        """
        The job as it is now; free.

        :param job_id: the job.
        :param job_type: the type of its result: ``video``, ``audio`` or ``image``.
        :raises RequestFailed: the subclass says why; ``NotFound``: the account has no such job.

        Source: GET /v1/{video,audio,image}-projects/{id}.
        """
        return self.client.get(job_id, job_type)

    def wait(
        self,
        job_id: str,
        *,
        job_type: JobType = "video",
        timeout: float = 3600,
        poll_interval: float | None = None,
    ) -> models.Job:
        """
        Poll until the job has ended, well or not; free. A failed poll is not an end: it polls again.

        :param job_id: the job.
        :param job_type: the type of its result: ``video``, ``audio`` or ``image``.
        :param timeout: seconds to wait.
        :param poll_interval: seconds between two polls; default: the connection's, or the schedule's.
        :returns: the job; its ``raise_unless_complete`` raises if the job made nothing.
        :raises WaitTimeout: the job has not ended in time. It continues, and you can wait for it again.
        """
        return self.client.wait(job_id, job_type, deadline=time.time() + timeout, poll_interval=poll_interval)

    def upload(self, *paths: str) -> list[str]:
        """
        Put photos, voices and videos into Magic Hour's storage, where they are kept for 7 days; free.

        :param paths: local, or in object storage (``s3://conn_id@bucket/key``).
        :returns: their ``api-assets/`` paths, in order; URLs and ``api-assets/`` paths come back as they are.
        :raises InvalidInput: a file is missing, empty, or of an unknown type; nothing was sent.
        :raises UploadFailed: nothing was charged; retryable.
        """
        given = [str(path) for path in paths]
        sources = {path: _source(path) for path in given if not is_remote(path)}
        uploaded = (
            dict(zip(sources, self.client.upload(list(sources.values())), strict=True)) if sources else {}
        )
        return [uploaded.get(path, path) for path in given]

    def download(
        self, job_id: str, output_path: str, *, replace: bool = False, job_type: JobType = "video"
    ) -> str:
        """
        Download the file of a complete job to ``output_path``, whole or not at all; free.

        :param job_id: the job.
        :param output_path: local or object storage; a path that ends in ``/`` is a folder.
        :param replace: overwrite a file at ``output_path``.
        :param job_type: the type of its result: ``video``, ``audio`` or ``image``.
        :returns: the path of the file; if there are several images, of the first one.
        :raises TargetExists: a file is there already, and ``replace`` is False; nothing charged.
        :raises JobEnded: the job has made nothing; the subclass says why, and whether it is refunded.
        :raises StorageFailed: the file cannot be written; it is paid for and stays at Magic Hour; retryable.
        :raises DownloadFailed: it is paid for and stays at Magic Hour; retryable.
        """
        targets = self.targets(job_id, Target(uri_of(output_path), replace), job_type)
        for number, target in enumerate(targets):
            target.check()
            self.client.download(job_id, target, job_type, number=number)
        return targets[0].uri

    def targets(self, job_id: str, place: Target, job_type: JobType) -> list[Target]:
        """
        The exact target of each file of this job. If ``place`` is a file and not a folder, one target.

        In a folder, the URLs of the downloads show how many files there are, and of which type.
        """
        spec = job_spec(job_type)
        if not place.is_folder or (len(spec.extensions) == 1 and not spec.has_several_files):
            return [place.for_job(job_id, spec.extensions[0])]
        _, downloads = self.client.completed(job_id, job_type)
        if not spec.has_several_files:
            downloads = downloads[:1]
        names = [job_id] if len(downloads) == 1 else [f"{job_id}-{n}" for n in range(1, len(downloads) + 1)]
        extensions = [extension_of(download.url) for download in downloads]
        return [
            place.for_job(name, extension if extension in spec.extensions else spec.extensions[0])
            for name, extension in zip(names, extensions, strict=True)
        ]

    def delete(self, job_id: str, *, job_type: JobType = "video") -> None:
        """
        Delete the file of the job, for ever. Not a cancel: nothing is refunded.

        :param job_id: the job.
        :param job_type: the type of its result: ``video``, ``audio`` or ``image``.
        :raises RequestFailed: the subclass says why; ``NotFound``: the account has no such job.

        Source: DELETE /v1/{video,audio,image}-projects/{id}.
        """
        self.client.delete(job_id, job_type)

    def account(self) -> models.Account:
        """
        The key's account: tier and credits left; free.

        :raises RequestFailed: it could not be asked; the subclass says why; nothing charged.

        Source: GET /v1/account.
        """
        return self.client.account()

    def test_connection(self) -> tuple[bool, str]:
        """
        Ask for the account, once and for 10 seconds at most: spends nothing.

        :returns: whether it works; and tier and credits left, or what is wrong and the remedy.
        """
        try:
            settings = replace(self.settings, timeout=min(self.settings.timeout, MAX_TEST_SECONDS))
            with MagicHourClient(settings) as client:
                account = client.account(once=True)
        except RequestFailed as error:
            return False, diagnosis(
                error, base_url=settings.base_url, proxy=settings.proxy, timeout=settings.timeout
            )
        except MagicHourError as error:  # of the connection itself: it names the remedy
            # Airflow tests a copy of the connection under a random id, so the message leaves the id out.
            return False, f"{type(error).__name__}: {error}".replace(
                f"connection {self.magichour_conn_id!r}, ", ""
            )
        tier, left = ("not known" if value is None else value for value in (account.tier, account.credits))
        api = urlsplit(settings.base_url).hostname
        emulated = "" if api == urlsplit(wire.BASE_URL).hostname else f" Not the real Magic Hour, but {api}."
        return True, f"It works. Account tier: {tier}; credits left: {left}.{emulated}{self._arrivals()}"

    def _arrivals(self) -> str:
        """Do webhook events arrive? Airflow tests a copy under another id, so the secret identifies it."""
        secrets = set(webhook_secrets(self.get_connection(self.magichour_conn_id)))
        if not secrets:
            return ""
        known = [seen for seen in events.arrivals.values() if secrets.intersection(seen.secrets)]
        return f" {known[0] if known else events.Arrivals()}"

    def async_client(self) -> AbstractAsyncContextManager[AsyncMagicHourClient]:
        """
        The async client that this event loop shares for this connection; it only polls.

        The last user closes it. Five minutes after it was opened, the next user gets a new one, so that a
        changed connection (a rotated key, for example) is noticed.

        :raises InvalidConnection: names what is wrong with the connection, and the remedy.
        """
        from magichour_provider.api.client.sharing import SharedClient

        return SharedClient(self.magichour_conn_id, read_settings)

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """For Airflow 3.0 and 3.1. Newer versions read ``get_provider_info``, which this uses too."""
        behaviour = connection_type()["ui-field-behaviour"]
        return {key.replace("-", "_"): value for key, value in behaviour.items()}

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """For Airflow 3.0 and 3.1. Newer versions read ``get_provider_info``, which this uses too."""
        from flask_appbuilder.fieldwidgets import BS3TextFieldWidget
        from wtforms import StringField

        return {
            name: StringField(field["label"], description=field["description"], widget=BS3TextFieldWidget())
            for name, field in connection_type()["conn-fields"].items()
        }


def _check_uploaded(inputs: Inputs) -> None:
    if files := inputs.uploads():
        raise InvalidInput.of(files[0].field, files[0].uri, "is a file; upload() it first")


def _source(path: str) -> Source:
    for media_type, extensions in EXTENSIONS.items():
        if extension_of(path) in extensions:
            return Source.find("path", media_type, path)
    known = [extension for extensions in EXTENSIONS.values() for extension in extensions]
    raise InvalidInput.of(
        "path", path, f"is not a file that Magic Hour takes; use one that ends in .{', .'.join(known)}"
    )
