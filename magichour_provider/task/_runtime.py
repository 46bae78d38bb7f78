"""Everything that a running task needs, and the parsing of a DAG file does not."""

from magichour_provider import exceptions, telemetry
from magichour_provider.api import inputs, jobs, tools, wire
from magichour_provider.api.watching import JobWatcher, submission_time
from magichour_provider.files import media
from magichour_provider.files.storage import Source, Target
from magichour_provider.hooks import MagicHourHook
from magichour_provider.task import arguments, ask, errors
from magichour_provider.task.journal import Ending, Intent, Journal, PaidJob, Report, decide
from magichour_provider.triggers import JobTrigger

__all__ = [
    "Ending",
    "Intent",
    "JobTrigger",
    "JobWatcher",
    "Journal",
    "MagicHourHook",
    "PaidJob",
    "Report",
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
    "submission_time",
    "telemetry",
    "tools",
    "wire",
]
