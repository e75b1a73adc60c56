"""streamseg run"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from streamseg.cli import show_error
from streamseg.cli.fetching import fetch_missing
from streamseg.cli.settings import engine_option, flags_of, given, label_options, labels_given, options_from
from streamseg.config import (
    Config,
    EngineConfig,
    PublishConfig,
    StreamConfig,
    build_settings,
    load_config,
)
from streamseg.errors import StreamsegError, UsageError
from streamseg.runtime.log import start_logging
from streamseg.runtime.signals import end_now

if TYPE_CHECKING:
    from streamseg.daemon import Daemon


@click.command()
@click.argument("config", type=click.Path(path_type=Path), required=False)
@click.option("--source", "sources", multiple=True, help="A stream to run without a file; may be repeated.")
@options_from(
    StreamConfig,
    "realtime",
    "loop",
    "max_fps",
    "max_age_ms",
    "timeout_s",
    "rtsp_transport",
    "mask_size",
    "gate",
)
@click.option(
    "--retry-at-start",
    is_flag=True,
    help="Keep trying a camera or address that cannot be opened at the start.",
)
@engine_option
@options_from(EngineConfig, "backend", "precision", "input_size", "threads", "replicas")
@label_options
@options_from(PublishConfig, "endpoint", "encoding")
@click.option(
    "--web",
    is_flag=False,
    flag_value="127.0.0.1:5580",
    default="",
    metavar="[HOST:PORT]",
    help="Serve the web console, health and metrics (extra web), by default at 127.0.0.1:5580.",
)
@click.option("--watch", is_flag=True, help="Show the masks in this terminal, as streamseg watch does.")
def command(config: Path | None, sources: tuple[str, ...], web: str, watch: bool, **options: Any) -> None:
    """Decode, segment and publish streams until they end or Ctrl-C.

    Give a CONFIG.toml, or one --source for each stream.
    """
    if (config is None) == (not sources):
        raise UsageError("give either CONFIG.toml or --source (demo: is a clip that comes with streamseg)")
    settings = load_config(config) if config is not None else None
    labels = labels_given(options)
    written = given(**options)
    if settings is not None and (written or labels):
        raise UsageError(f"{flags_of([*written, *labels])}: write it in {config} instead")
    if settings is None:
        settings = _from_options(sources, written | ({"labels": labels} if labels else {}))
    if web:
        settings = _with_web(settings, web)
    if config is None:
        fetch_missing(settings.engine.name)
    start_logging(settings.log.level)
    _run(settings, config, watch)


def _from_options(sources: tuple[str, ...], options: dict[str, Any]) -> Config:
    def pick(kind: type, *without: str) -> dict[str, Any]:
        return {k: v for k, v in options.items() if k in kind.__struct_fields__ and k not in without}  # type: ignore[attr-defined]

    names = ["video"] if len(sources) == 1 else [f"video{i}" for i in range(len(sources))]
    streams = {
        n: {"source": s, "retry_at_start": False, **pick(StreamConfig)}
        for n, s in zip(names, sources, strict=True)
    }
    return build_settings(
        Config, {"streams": streams, "engine": pick(EngineConfig, "labels"), "publish": pick(PublishConfig)}
    )


def _with_web(settings: Config, listen: str) -> Config:
    web = build_settings(Config, {"web": msgspec.to_builtins(settings.web) | {"listen": listen}}).web
    return msgspec.structs.replace(settings, web=web)


def _run(settings: Config, config: Path | None, watch: bool) -> None:
    from streamseg.daemon import Daemon

    daemon = Daemon(settings, config)
    if not watch:
        _run_to_the_end(daemon)
        return
    from streamseg.cli.answers import Answers
    from streamseg.cli.screen import watch_masks
    from streamseg.client import ClientKeys, subscribe

    over = threading.Event()

    def show() -> None:
        while not daemon.ready.wait(0.1):
            if over.is_set():
                return
        keys = ClientKeys(*daemon.own_keys) if daemon.own_keys is not None else None
        try:
            watch_masks(
                partial(subscribe, daemon.endpoint, keys=keys),
                over,
                note=lambda: _address(daemon),
                answers=partial(Answers, daemon.endpoint, keys=keys),
            )
        finally:
            daemon.stop()  # q was pressed, or it is over anyway

    table = threading.Thread(target=show, name="watch", daemon=True)
    table.start()

    def end_table() -> None:
        over.set()
        table.join(3.0)

    _run_to_the_end(daemon, end_table)


def _address(daemon: Daemon) -> str:
    return f"console {daemon.web.url}" if daemon.web is not None and daemon.web.url else ""


def _run_to_the_end(daemon: Daemon, then: Callable[[], None] = lambda: None) -> None:
    """Run it; end the process at once where a library still works in a thread: Python would wait for it."""
    try:
        try:
            daemon.run()
        finally:
            then()
    except StreamsegError as error:
        if not daemon.abandoned:
            raise
        show_error(error)
        end_now(error.exit_code)
    if daemon.abandoned:
        end_now(0)
