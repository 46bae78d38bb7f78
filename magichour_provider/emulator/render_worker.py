"""
A render process. For each line of JSON that it reads, it renders one file and writes one line of JSON.

``worker_pool.py`` starts it. When the server ends for any reason, the pipe closes, and the process ends.
"""

from __future__ import annotations

import json
import os
import sys

from .exceptions import RenderError


def serve() -> None:
    """Render files until the input ends."""
    # Codecs may print to stdout. Redirect this to stderr, and keep a copy of stdout for the replies.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # A render must not delay the server.
    os.nice(10)

    for line in sys.stdin:
        spec = json.loads(line)
        try:
            # Import these here, so that an import error becomes a reply too.
            from . import render, stand_ins

            tasks = {
                "video": render.render_video,
                "voice": render.render_voice,
                "image": stand_ins.render_image,
                "clip": stand_ins.render_clip,
                "audio": stand_ins.render_audio,
            }
            reply = tasks[spec["task"]](spec)
        except RenderError as error:
            reply = {"error": error.code, "message": str(error)}
        except Exception as error:  # noqa: BLE001 - a codec can raise anything for a damaged file
            reply = {"error": "unknown_error", "message": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    serve()
