"""
``TalkingPhotoOperator``: a photo and a voice become a video. ``VoiceGeneratorOperator``: a text becomes a
voice. ``ImageGeneratorOperator``: a sentence becomes an image. ``AutoSubtitleOperator``: a video gets
subtitles. ``MagicHourOperator``: any other tool of Magic Hour.

Each is paid for once: see ``task/submit.py``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from magichour_provider import task as runtime
from magichour_provider.task.submit import PaidJobOperator

if TYPE_CHECKING:
    from magichour_provider.api.inputs import TalkingPhotoInputs, VoiceInputs
    from magichour_provider.api.jobs import JobType
    from magichour_provider.api.tools import ToolInputs
    from magichour_provider.task.arguments import Check


class TalkingPhotoOperator(PaidJobOperator["TalkingPhotoInputs"]):
    """
    Make a talking-photo video with Magic Hour, and download it to ``output_path``.

    It also takes the arguments of ``PaidJobOperator``, such as ``output_path``, ``max_credits`` and
    ``deferrable``.

    Templated: all arguments below, and ``output_path``, ``replace``, ``max_credits``, ``magichour_conn_id``,
    ``timeout``, ``poll_interval``.

    .. versionadded:: 0.1.0

    :param image_file_path: the photo: a URL, an ``api-assets/…`` path, a URL of the vendor's library, a local
        path, or an object-storage URI (``s3://conn_id@bucket/key``). The last two are uploaded.
    :param audio_file_path: the voice, in one of the same forms.
    :param start_seconds: where the clip starts in the audio, in seconds.
    :param end_seconds: where the clip ends in the audio, in seconds; default: the end of the audio. The
        operator then measures the audio, which must be a file or a voice in the vendor's library. That needs
        the extra ``media``.
    :param name: the job's name in the vendor's library; default: DAG and task. A short id is added to it.
    :param generation_mode: ``realistic`` (the vendor's default), ``prompted``, or an older name of these:
        ``pro``, ``standard``, ``stable``, ``expressive``.
    :param intensity: how strong the motion is, with at most 2 decimals; only with ``expressive``.
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
            if warning := runtime.duration.check_clip(inputs):
                self.log.warning(warning)
            return inputs
        complete = runtime.duration.fill_end_seconds(inputs, self.hook.client)
        self.log.info("The clip ends with the audio: end_seconds=%s", complete.end_seconds)
        return complete


class VoiceGeneratorOperator(PaidJobOperator["VoiceInputs"]):
    """
    Turn a text into a voice, with one of Magic Hour's voices.

    ``TalkingPhotoOperator`` takes its result: ``audio_file_path=voice.output["audio_file_path"]``.

    It also takes the arguments of ``PaidJobOperator``, such as ``output_path``, ``max_credits`` and
    ``deferrable``.

    Templated: all arguments below, and ``output_path``, ``replace``, ``max_credits``, ``magichour_conn_id``,
    ``timeout``, ``poll_interval``.

    .. versionadded:: 0.1.0

    :param prompt: the text, of at most 1000 characters.
    :param voice_name: who speaks it. The vendor's list of voices grows, so only the vendor refuses a name.
    :param name: the job's name in the vendor's library; default: DAG and task. A short id is added to it.
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


class ToolOperator(PaidJobOperator["ToolInputs"]):
    """
    What these operators share: the request is checked against the vendor's own description of the tool.

    :param estimated_credits: your estimate of the cost, for ``max_credits`` and for the record; default: the
        vendor's published price. If there is neither, ``max_credits`` is an error. Templated.
    """

    tool: str
    shared_template_fields: ClassVar[tuple[str, ...]] = (
        *PaidJobOperator.shared_template_fields,
        "estimated_credits",
    )

    def __init__(self, *, estimated_credits: float | str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.estimated_credits = estimated_credits

    def arguments(self) -> dict[str, tuple[Check, Any]]:
        return {**super().arguments(), "estimated_credits": (runtime.arguments.number, None)}

    def body_of(self, values: Mapping[str, Any]) -> object:
        """The request, in the vendor's JSON; None stands for "not given"."""
        raise NotImplementedError

    def check_arguments(self) -> None:
        super().check_arguments()
        self.job_type = runtime.tools.tool_named(self.tool).job_type

    def checked(self, values: Mapping[str, object], *, unknown: Collection[str] = ()) -> ToolInputs:
        estimate = None if self.is_known_later(self.estimated_credits) else self.estimated_credits
        request = {"tool": self.tool, "body": self.body_of(values), "estimated_credits": estimate}
        inputs = runtime.tools.ToolInputs.checked(request, unknown={"body"} if unknown else ())
        place = "/" if self.is_known_later(self.output_path) else self.output_path or "/"
        if not place.endswith("/") and inputs.file_count > 1:
            raise runtime.exceptions.InvalidInput.of(
                "output_path",
                self.output_path,
                f"is one file, and image_count={inputs.file_count} makes several; end it with '/'",
            )
        return inputs

    def input_files(self) -> list[str]:
        return [asset.uri for asset in self._check_all().assets]


class MagicHourOperator(ToolOperator):
    """
    Call any tool of Magic Hour, and download what it makes to ``output_path``.

    ``body`` is the vendor's own JSON. It is checked against the vendor's description before anything is paid.
    A missing field or a value of another type is an error. An unknown field or value is a warning: the server
    may be newer than the description, and its refusal is free. None stands for "not given". Numbers and flags
    may be text, as templates make them.

    Files are found by the names of their fields (``*_file_path``, ``*_file_paths``), anywhere in the body. A
    local path or an object-storage URI is uploaded. A URL, an ``api-assets/…`` or ``saved-items/…`` path and
    a URL of the vendor's library are sent as they are.

    It also takes the arguments of ``PaidJobOperator``, such as ``output_path``, ``max_credits`` and
    ``deferrable``. A job can make several images: with an ``output_path`` that ends in ``/`` all of them are
    downloaded.

    A tool that takes no ``name`` is paid once too. But if its answer is lost, a person cannot find its job by
    a name, and ticks *Adopt anyway* to adopt it.

    Templated: ``body``, ``estimated_credits``, and ``output_path``, ``replace``, ``max_credits``,
    ``magichour_conn_id``, ``timeout``, ``poll_interval``.

    :param tool: its name in the path of the paid call, such as ``face-swap``.
    :param body: the request, in the vendor's JSON; if it has a ``name``, a short id is added to it.
    :param estimated_credits: your estimate of the cost, for ``max_credits`` and for the record; default: the
        vendor's published price. If there is neither, ``max_credits`` is an error.
    :returns: ``job_id``, ``status``, ``credits_charged``, ``output_path`` (or ``download_url`` and
        ``download_url_expires_at``), and what each type of job has: a video ``duration_seconds``, ``width``,
        ``height``, ``fps``; an audio ``audio_file_path``, ``duration_seconds``; an image ``image_file_path``
        and ``output_paths`` (or ``download_urls``).

    Source: POST /v1/<tool>, GET /v1/{video,audio,image}-projects/{id}.
    """

    input_fields: ClassVar[tuple[str, ...]] = ("body",)
    template_fields: Sequence[str] = (*input_fields, *ToolOperator.shared_template_fields)

    def __init__(
        self,
        *,
        tool: str,
        body: Mapping[str, Any] | str,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.tool = tool
        self.body = body
        self.validate_static_fields()

    def body_of(self, values: Mapping[str, Any]) -> object:
        return values["body"]


class ImageGeneratorOperator(ToolOperator):
    """
    Turn a text into an image. ``TalkingPhotoOperator`` takes it:
    ``image_file_path=portrait.output["image_file_path"]``.

    It also takes the arguments of ``PaidJobOperator``, and ``estimated_credits``: see ``MagicHourOperator``.
    Templated: all arguments below.

    :param prompt: what the image shows.
    :param image_count: how many images; the limit depends on the model.
    :param model: one of the vendor's models; default: the one that it recommends now.
    :param aspect_ratio: ``1:1`` (the vendor's default), ``16:9`` or ``9:16``.
    :param resolution: ``640px``, ``1k``, ``2k`` or ``4k``; model and plan decide which are possible.
    :param art_style: one of the vendor's ``style.tool``, such as ``ai-photo-generator``.
    :param name: the job's name in the vendor's library; default: DAG and task. A short id is added to it.
    :returns: ``job_id``, ``status``, ``credits_charged``, ``output_path`` and ``output_paths`` (or
        ``download_url``, ``download_urls`` and ``download_url_expires_at``), ``image_file_path`` (the image
        in the vendor's library: a URL without a signature, which does not expire).

    Source: POST /v1/ai-image-generator, GET /v1/image-projects/{id}.
    """

    tool = "ai-image-generator"
    input_fields: ClassVar[tuple[str, ...]] = (
        "prompt",
        "image_count",
        "model",
        "aspect_ratio",
        "resolution",
        "art_style",
        "name",
    )
    template_fields: Sequence[str] = (*input_fields, *ToolOperator.shared_template_fields)

    def __init__(
        self,
        *,
        prompt: str,
        image_count: int | str = 1,
        model: str | None = None,
        aspect_ratio: str | None = None,
        resolution: str | None = None,
        art_style: str | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.prompt = prompt
        self.image_count = image_count
        self.model = model
        self.aspect_ratio = aspect_ratio
        self.resolution = resolution
        self.art_style = art_style
        self.name = name
        self.validate_static_fields()

    def body_of(self, values: Mapping[str, Any]) -> object:
        flat = ("name", "image_count", "model", "aspect_ratio", "resolution")
        style = {"prompt": values["prompt"], "tool": values["art_style"]}
        return {**{field: values[field] for field in flat}, "style": style}


class AutoSubtitleOperator(ToolOperator):
    """
    Burn subtitles into a video.

    It also takes the arguments of ``PaidJobOperator``, and ``estimated_credits``: see ``MagicHourOperator``.
    Templated: all arguments below.

    :param video_file_path: the video: a URL (``video.output["download_url"]``), an ``api-assets/…`` path, a
        local path, or an object-storage URI. The last two are uploaded.
    :param end_seconds: where the clip ends in the video, in seconds.
    :param start_seconds: where the clip starts in the video, in seconds.
    :param template: ``karaoke`` (the default, unless ``custom_config`` is given), ``cinematic``,
        ``minimalist`` or ``highlight``.
    :param custom_config: ``font``, ``text_color`` and so on, as the vendor names them. They replace values of
        the template.
    :param name: the job's name in the vendor's library; default: DAG and task. A short id is added to it.
    :returns: the same as ``TalkingPhotoOperator``.

    Source: POST /v1/auto-subtitle-generator, GET /v1/video-projects/{id}.
    """

    tool = "auto-subtitle-generator"
    input_fields: ClassVar[tuple[str, ...]] = (
        "video_file_path",
        "end_seconds",
        "start_seconds",
        "template",
        "custom_config",
        "name",
    )
    template_fields: Sequence[str] = (*input_fields, *ToolOperator.shared_template_fields)

    def __init__(
        self,
        *,
        video_file_path: str,
        end_seconds: float | str,
        start_seconds: float | str = 0.0,
        template: str | None = None,
        custom_config: Mapping[str, Any] | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.video_file_path = video_file_path
        self.end_seconds = end_seconds
        self.start_seconds = start_seconds
        self.template = template
        self.custom_config = custom_config
        self.name = name
        self.validate_static_fields()

    def body_of(self, values: Mapping[str, Any]) -> object:
        template, custom = values["template"], values["custom_config"]
        return {
            "name": values["name"],
            "start_seconds": values["start_seconds"],
            "end_seconds": values["end_seconds"],
            "assets": {"video_file_path": values["video_file_path"]},
            "style": {
                "template": "karaoke" if template is None and custom is None else template,
                "custom_config": custom,
            },
        }
