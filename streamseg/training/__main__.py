"""`python -m streamseg.training`: a run without the command line tool around it."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from streamseg.errors import StreamsegError
from streamseg.training.recipe import load_recipe


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m streamseg.training")
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--val", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    from streamseg.training.loop import train

    try:
        train(load_recipe(arguments.recipe), arguments.data, arguments.val, arguments.out, arguments.resume)
    except StreamsegError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
