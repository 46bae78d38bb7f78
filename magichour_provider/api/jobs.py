"""What a job of each type is: one record a type. What is asked of the vendor is in ``wire``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from magichour_provider.api.integrity import ImageCheck, IntegrityCheck, Mp4Check, SoundCheck
from magichour_provider.exceptions import InvalidInput

JobType = Literal["video", "audio", "image"]


@dataclass(frozen=True)
class JobSpec:
    """
    What differs between the types of jobs.

    :param noun: what a person calls the result.
    :param route: of the vendor's API; the job id follows.
    :param library_parameter: names a job in a URL of the vendor's library.
    :param extensions: of the files that such a job makes; the first is the usual one.
    :param integrity: checks that such a file has arrived whole.
    :param usual_render_seconds: queueing included, until this process has seen some end.
    :param has_clip: the vendor says which clip it is, how large, and its frames a second.
    :param has_several_files: each of its downloads is a result. Otherwise the first of its type is.
    """

    noun: str
    route: str
    library_parameter: str
    extensions: tuple[str, ...]
    integrity: type[IntegrityCheck]
    usual_render_seconds: float
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
        integrity=SoundCheck,
        # The vendor says nothing of voices: a guess, with which polls are 6 to 9 s apart, as it advises.
        usual_render_seconds=10.0,
    ),
    "image": JobSpec(
        noun="image",
        route="/v1/image-projects",
        library_parameter="imageId",
        # The last two are what ai-gif-generator makes on demand.
        extensions=("png", "jpg", "jpeg", "webp", "gif", "avif", "mp4", "webm"),
        integrity=ImageCheck,
        # The vendor says nothing of images: a guess.
        usual_render_seconds=15.0,
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
