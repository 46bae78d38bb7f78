"""
The far side of a render worker: one JSON line in, one JSON line out, until its input ends.

Started by ``workers.py``. When the server goes, however it goes, the pipe closes and so does this.
"""

from __future__ import annotations

import json
import os
import sys

from .state import RenderError


def serve() -> None:
    """Render what the lines ask for."""
    # Whatever a codec prints must not be taken for an answer.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # Encoding may use what status looks leave over.
    os.nice(10)

    for line in sys.stdin:
        spec = json.loads(line)
        try:
            # Here, so that a codec that is not installed is said in an answer, too.
            from . import render

            tasks = {"video": render.render_video, "voice": render.render_voice}
            answer = tasks[spec["task"]](spec)
        except RenderError as failed:
            answer = {"failed": failed.code, "message": str(failed)}
        except Exception as error:  # noqa: BLE001 - a file may upset a codec in any way
            answer = {"failed": "unknown_error", "message": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()
