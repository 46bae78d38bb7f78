"""
``TalkingPhotoOperator``: a photo and a voice become a video. ``VoiceGeneratorOperator``: a text becomes a
voice. Each is paid for once: see ``task/submit.py``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from magichour_provider.task import runtime
from magichour_provider.task.submit import PaidJobOperator

if TYPE_CHECKING:
    from magichour_provider.api.inputs import TalkingPhotoInputs, VoiceInputs
    from magichour_provider.api.jobs import JobType
    from magichour_provider.api.wire import Call, Submission


class TalkingPhotoOperator(PaidJobOperator["TalkingPhotoInputs"]):
    """
    Make a talking-photo video with Magic Hour, and download it to ``output_path``.

    It also takes the arguments of ``PaidJobOperator``, such as ``output_path``, ``max_credits`` and
    ``deferrable``.

    Templated: all arguments below, and ``output_path``, ``replace``, ``max_credits``, ``magichour_conn_id``,
    ``timeout``, ``poll_interval``.

    :param image_file_path: the photo: a URL, an ``api-assets/…`` path, a URL of the vendor's library, a local
        path, or an object-storage URI (``s3://conn_id@bucket/key``). The last two are uploaded.
    :param audio_file_path: the voice, in one of the same forms.
    :param start_seconds: where the clip starts in the audio, in seconds.
    :param end_seconds: where the clip ends in the audio, in seconds; default: the end of the audio. The
        operator then measures the audio, which must be a file or a voice in the vendor's library. That needs
        the extra ``media``.
    :param name: of the job in the vendor's library; default: DAG and task. A short id is added to it.
    :param generation_mode: ``realistic`` (the vendor's default), ``prompted``, or an older name of these:
        ``pro``, ``standard``, ``stable``, ``expressive``.
    :param intensity: of the motion, with at most 2 decimals; only with ``expressive``.
    :param prompt: what should happen in the scene; only with ``prompted``.
    :param resolution: ``480p`` or ``720p``.
    :param max_resolution: larger side of the video in pixels; ignored if ``resolution`` is given.
    :returns: ``job_id``, ``status``, ``credits_charged``, ``output_path`` (or ``download_url`` and
        ``download_url_expires_at``), ``duration_seconds``, ``width``, ``height``, ``fps``.

    Source: POST /v1/ai-talking-photo, GET /v1/video-projects/{id}.
    """

    job_type: JobType = "video"
    input_fields: ClassVar[tuple[str, ...]] = (
        "image_file_path",
        "audio_file_path",
        "start_seconds",
        "end_seconds",
        "name",
        "generation_mode",
        "intensity",
        "prompt",
        "resolution",
        "max_resolution",
    )
    template_fields: Sequence[str] = (*input_fields, *PaidJobOperator.shared_template_fields)

    def __init__(
        self,
        *,
        image_file_path: str,
        audio_file_path: str,
        start_seconds: float = 0.0,
        end_seconds: float | None = None,
        name: str | None = None,
        generation_mode: str | None = None,
        intensity: float | None = None,
        prompt: str | None = None,
        resolution: str | None = None,
        max_resolution: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.image_file_path = image_file_path
        self.audio_file_path = audio_file_path
        self.start_seconds = start_seconds
        self.end_seconds = end_seconds
        self.name = name
        self.generation_mode = generation_mode
        self.intensity = intensity
        self.prompt = prompt
        self.resolution = resolution
        self.max_resolution = max_resolution
        self.validate_static_fields()

    def checked(self, values: Mapping[str, object], *, unknown: Collection[str] = ()) -> TalkingPhotoInputs:
        return runtime.inputs.TalkingPhotoInputs.checked(values, unknown=unknown)

    def complete(self, inputs: TalkingPhotoInputs) -> TalkingPhotoInputs:
        if inputs.end_seconds is not None:
            if warning := runtime.media.check_clip(inputs):
                self.log.warning(warning)
            return inputs
        complete = runtime.media.fill_end_seconds(inputs, self.hook.client)
        self.log.info("The clip ends with the audio: end_seconds=%s", complete.end_seconds)
        return complete

    def paid_call(
        self, inputs: TalkingPhotoInputs, uploaded: Mapping[str, str], name: str
    ) -> Call[Submission]:
        image, audio = (
            uploaded.get(field, getattr(inputs, field)) for field in ("image_file_path", "audio_file_path")
        )
        return runtime.wire.create_talking_photo(inputs, image=image, audio=audio, name=name)


class VoiceGeneratorOperator(PaidJobOperator["VoiceInputs"]):
    """
    Turn a text into a voice, with one of Magic Hour's voices.

    ``TalkingPhotoOperator`` takes its result: ``audio_file_path=voice.output["audio_file_path"]``.

    It also takes the arguments of ``PaidJobOperator``, such as ``output_path``, ``max_credits`` and
    ``deferrable``.

    Templated: all arguments below, and ``output_path``, ``replace``, ``max_credits``, ``magichour_conn_id``,
    ``timeout``, ``poll_interval``.

    :param prompt: the text, of at most 1000 characters.
    :param voice_name: who speaks it. The vendor's list of voices grows, so a name is not checked here.
    :param name: of the job in the vendor's library; default: DAG and task. A short id is added to it.
    :returns: ``job_id``, ``status``, ``credits_charged``, ``output_path`` (or ``download_url`` and
        ``download_url_expires_at``), ``audio_file_path`` (the voice in the vendor's library: a URL without a
        signature, which does not expire) and ``duration_seconds`` (measured; None if that cannot be done).

    Source: POST /v1/ai-voice-generator, GET /v1/audio-projects/{id}.
    """

    job_type: JobType = "audio"
    input_fields: ClassVar[tuple[str, ...]] = ("prompt", "voice_name", "name")
    template_fields: Sequence[str] = (*input_fields, *PaidJobOperator.shared_template_fields)

    def __init__(self, *, prompt: str, voice_name: str, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.prompt = prompt
        self.voice_name = voice_name
        self.name = name
        self.validate_static_fields()

    def checked(self, values: Mapping[str, object], *, unknown: Collection[str] = ()) -> VoiceInputs:
        return runtime.inputs.VoiceInputs.checked(values, unknown=unknown)

    def paid_call(self, inputs: VoiceInputs, uploaded: Mapping[str, str], name: str) -> Call[Submission]:
        return runtime.wire.create_voice(inputs, name=name)
