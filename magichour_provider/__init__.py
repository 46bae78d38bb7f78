"""An Apache Airflow provider for Magic Hour: a photo and a voice become a video, paid for once."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def get_provider_info() -> dict[str, Any]:
    """What Airflow reads to discover this provider: plain data, so that discovery imports nothing else."""
    return {
        "package-name": "airflow-provider-magichour",
        "name": "Magic Hour",
        "description": "Talking-photo videos from data pipelines, with `Magic Hour <https://magichour.ai>`__.",
        "versions": [__version__],
        "integrations": [
            {
                "integration-name": "Magic Hour",
                "external-doc-url": "https://docs.magichour.ai",
                # Airflow's schema requires paths. The plugin serves the logo; the sdist contains the docs.
                "logo": "/magichour/static/icon.svg",
                "how-to-guide": ["/docs/operator.md", "/docs/text-to-video.md", "/docs/sensor.md"],
                "tags": ["service"],
            }
        ],
        "operators": _modules("operators"),
        "sensors": _modules("sensors"),
        "hooks": _modules("hooks"),
        "triggers": _modules("triggers"),
        "extra-links": [
            "magichour_provider.links.MagicHourJobLink",
            "magichour_provider.links.MagicHourWatchLink",
        ],
        "connection-types": [
            {
                "connection-type": "magichour",
                "hook-name": "Magic Hour",
                "hook-class-name": "magichour_provider.hooks.MagicHourHook",
                "ui-field-behaviour": {
                    "hidden-fields": ["login", "port", "schema"],
                    "relabeling": {"password": "API key", "host": "Base URL"},
                    "placeholders": {
                        "password": "mhk_live_…",
                        "host": "https://api.magichour.ai",
                    },
                },
                "conn-fields": {
                    "timeout": _field(
                        "Timeout (s)",
                        ["number", "null"],
                        "The maximum duration of one API call in seconds. Empty: 60.",
                    ),
                    "poll_interval": _field(
                        "Poll interval (s)",
                        ["number", "null"],
                        "Seconds between two polls of a job. Empty: chosen from usual render times.",
                    ),
                    "requests_per_second": _field(
                        "Requests per second",
                        ["number", "null"],
                        "The maximum number of polls a second for all tasks that wait in one triggerer. Two "
                        "triggerers have twice this limit. Below the limit, the rate adapts to HTTP 429. "
                        "Empty: no limit.",
                    ),
                    "strict": _field(
                        "Strict",
                        ["boolean", "null"],
                        "true: after a 502 or 503 from the API, the outcome is uncertain (a job may exist), "
                        "and the task does not pay again. Empty: false.",
                    ),
                    "proxy": _field(
                        "Proxy",
                        ["string", "null"],
                        "URL of an HTTP proxy for the API and the storage. Empty: the environment's "
                        "proxy, if any.",
                    ),
                    "verify": _field(
                        "Verify TLS",
                        ["string", "null"],
                        "true, false, or the path of a CA bundle. Empty: true.",
                    ),
                    "webhook_secret": {
                        "label": "Webhook secret",
                        "description": "The secret of the webhook at Magic Hour. While you replace it, write "
                        "both secrets, separated by a comma. Empty: no webhooks.",
                        "schema": {"type": ["string", "null"], "format": "password"},
                    },
                },
            }
        ],
    }


def _modules(name: str) -> list[dict[str, Any]]:
    return [{"integration-name": "Magic Hour", "python-modules": [f"magichour_provider.{name}"]}]


def _field(label: str, types: list[str], description: str) -> dict[str, Any]:
    return {"label": label, "description": description, "schema": {"type": types}}
