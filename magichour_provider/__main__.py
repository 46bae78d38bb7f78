"""``python -m magichour_provider``: the command line."""

from __future__ import annotations

import argparse
import sys

from magichour_provider import uncertain
from magichour_provider.exceptions import MagicHourError


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, and return the exit code."""
    top = argparse.ArgumentParser(prog="python -m magichour_provider", description="Magic Hour for Airflow.")
    uncertain.add_command(top.add_subparsers(required=True, metavar="COMMAND"))
    options = top.parse_args(arguments)
    try:
        return int(options.run(options))
    except MagicHourError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2


if __name__ == "__main__":
    sys.exit(main())
