"""Released networks and published weights are fetched, and whoever waits sees it."""

from __future__ import annotations

from urllib.parse import urlsplit

from streamseg.cli.progress import Bar
from streamseg.models.sources import RELEASED, Source
from streamseg.runtime.terminal import echo


def fetch_missing(*names: str) -> None:
    """Fetch the engines of these names that are released and not here yet; raises what fetch_engine() does.

    To be called when nothing else is wrong with the command line.
    """
    from streamseg.inference.engine_folders import is_missing

    for name in filter(is_missing, dict.fromkeys(names)):
        from streamseg.models.released import fetch_engine

        source = RELEASED[name].source
        with fetching(name, source) as bar:
            folder = fetch_engine(name, bar.at)
        echo(f"{folder}: fetched; licence: {source.licence}", err=True)


def fetching(name: str, source: Source) -> Bar:
    """A bar for a download, or a line where none is drawn."""
    host = urlsplit(source.url or "").hostname
    return Bar(name, f"fetching {name} from {host}" if host else "")
