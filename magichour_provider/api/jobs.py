"""One record for each type of job: what differs between the types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from magichour_provider.api.integrity import AudioCheck, ImageCheck, IntegrityCheck, Mp4Check
from magichour_provider.exceptions import InvalidInput

JobType = Literal["video", "audio", "image"]


@dataclass(frozen=True)
class JobSpec:
    """
    What differs between the types of jobs.

    :param noun: what a person calls the result.
    :param route: the path in the vendor's API; the job id follows.
    :param library_parameter: the name of the job id in a URL of the vendor's library.
    :param extensions: of the files that such a job makes; the first is the usual one.
    :param integrity: checks that such a file has arrived whole.
    :param usual_render_seconds: with the time in the queue; used until this process has seen such jobs end.
    :param result_field: the field of a task's result from which the next task takes the job; it has the job's
        URL in the vendor's library.
    :param is_audio: its file is measured, because the vendor's answer does not have the duration.
    :param has_clip: the vendor's answer has the clip, the size in pixels and the frame rate.
    :param has_several_files: each of its downloads is a result; otherwise only the first of its type.
    """

    noun: str
    route: str
    library_parameter: str
    extensions: tuple[str, ...]
    integrity: type[IntegrityCheck]
    usual_render_seconds: float
    result_field: str | None = None
    is_audio: bool = False
    has_clip: bool = False
    has_several_files: bool = False


JOBS: dict[JobType, JobSpec] = {
    "video": JobSpec(
        noun="video",
        route="/v1/video-projects",
        library_parameter="videoId",
        extensions=("mp4",),
        integrity=Mp4Check,
        # Vendor, talking photos, queueing included, 30 days to 2026-07-20.
        usual_render_seconds=174.0,
        has_clip=True,
    ),
    "audio": JobSpec(
        noun="voice",
        route="/v1/audio-projects",
        library_parameter="audioId",
        extensions=("wav", "mp3", "m4a", "aac", "flac", "ogg", "oga", "opus", "aiff", "webm"),
        integrity=AudioCheck,
        # The vendor has no number for voices. With this guess, polls are 6 to 9 s apart, as it advises.
        usual_render_seconds=10.0,
        result_field="audio_file_path",
        is_audio=True,
    ),
    "image": JobSpec(
        noun="image",
        route="/v1/image-projects",
        library_parameter="imageId",
        # ai-gif-generator can make the last two.
        extensions=("png", "jpg", "jpeg", "webp", "gif", "avif", "mp4", "webm"),
        integrity=ImageCheck,
        # A guess, since the vendor has no number for images.
        usual_render_seconds=15.0,
        result_field="image_file_path",
        has_several_files=True,
    ),
}


def job_spec(job_type: str) -> JobSpec:
    """
    The record of a type.

    :raises InvalidInput: there is no such type; nothing was sent.
    """
    for name, spec in JOBS.items():
        if name == job_type:
            return spec
    raise InvalidInput.of("job_type", job_type, f"is not known; use one of {', '.join(get_args(JobType))}")
