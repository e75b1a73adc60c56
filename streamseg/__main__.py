"""The command `streamseg`, and python -m streamseg."""

from __future__ import annotations

import sys

DAEMONS = ("run", "relay")


def main() -> None:
    """Prepare the process before anything else is imported, then run the command line."""
    from streamseg.runtime.early_signals import interrupted_without_a_word, take_early

    if sys.argv[1:2] and sys.argv[1] in DAEMONS:
        take_early()
    with interrupted_without_a_word():
        from streamseg.runtime.import_path import import_path

        sys.path[:] = import_path()
        from streamseg.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
