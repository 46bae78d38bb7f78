"""What a task does in Airflow: pay once, wait, collect the result."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from magichour_provider.task import _runtime as runtime
else:

    class _Runtime:
        """``_runtime``, imported when a task first runs: parsing a DAG file loads none of it."""

        def __getattr__(self, name: str) -> Any:
            return getattr(importlib.import_module("magichour_provider.task._runtime"), name)

    runtime = _Runtime()

__all__ = ["runtime"]
