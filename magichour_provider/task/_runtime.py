"""Everything that a running task needs, and that the parsing of a DAG file does not need."""

from magichour_provider import exceptions, telemetry
from magichour_provider.api import inputs, jobs, models, tools, wire
from magichour_provider.api.watching import JobWatcher, submission_time
from magichour_provider.files import media
from magichour_provider.files.storage import Source, Target
from magichour_provider.hooks import MagicHourHook
from magichour_provider.task import arguments, ask, errors
from magichour_provider.task.journal import Journal
from magichour_provider.task.lost_answer import LostAnswers
from magichour_provider.task.record import Ending, PaidJob, decide
from magichour_provider.triggers import JobTrigger

__all__ = [
    "Ending",
    "JobTrigger",
    "JobWatcher",
    "Journal",
    "LostAnswers",
    "MagicHourHook",
    "PaidJob",
    "Source",
    "Target",
    "arguments",
    "ask",
    "decide",
    "errors",
    "exceptions",
    "inputs",
    "jobs",
    "media",
    "models",
    "submission_time",
    "telemetry",
    "tools",
    "wire",
]
