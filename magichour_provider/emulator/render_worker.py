"""
A render process. It reads one line of JSON for each file, renders it, and writes one line of JSON.

``worker_pool.py`` starts it. When the server ends, for whatever reason, the pipe closes and the worker ends.
"""

from __future__ import annotations

import json
import os
import sys

from .exceptions import RenderError


def serve() -> None:
    """Render until the input ends."""
    # The codecs may print to stdout; their output goes to stderr, away from the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # A render must not slow down the server's answers to polls.
    os.nice(10)

    for line in sys.stdin:
        spec = json.loads(line)
        try:
            # Imported here, so that a missing codec becomes an answer too.
            from . import render, stand_ins

            tasks = {
                "video": render.render_video,
                "voice": render.render_voice,
                "image": stand_ins.render_image,
                "clip": stand_ins.render_clip,
                "sound": stand_ins.render_sound,
            }
            answer = tasks[spec["task"]](spec)
        except RenderError as error:
            answer = {"error": error.code, "message": str(error)}
        except Exception as error:  # noqa: BLE001 - a damaged file can raise anything in a codec
            answer = {"error": "unknown_error", "message": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()
