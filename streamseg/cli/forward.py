"""streamseg forward"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamseg.config import build_settings
from streamseg.errors import ConfigError, StreamsegError, UsageError
from streamseg.runtime.log import start_logging
from streamseg.runtime.terminal import echo

if TYPE_CHECKING:
    from streamseg.forward.settings import ForwardConfig

PLACES = {"mqtt": ("mqtt", "url"), "webhook": ("webhook", "url"), "kafka": ("kafka", "brokers"),
          "out": ("file", "path")}  # fmt: skip
"""The options of places: the kind of each, and the setting that it gives."""


@click.command()
@click.argument("endpoint", required=False)
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="A TOML file with everything.")
@click.option("--mqtt", metavar="URL", help="An MQTT 5 broker, mqtt://HOST:PORT; found by Home Assistant.")
@click.option("--webhook", metavar="URL", help="An HTTP server that is sent a POST for each event.")
@click.option("--kafka", metavar="BROKERS", help="A Kafka cluster, HOST:PORT,…")
@click.option("--out", metavar="FILE", help="A file with a line of JSON for each message; - is stdout.")
@click.option("--state", metavar="FOLDER", help="Where events wait for a place that is unreachable, on disk.")
@click.option("--server-key", help="The daemon's public key, or the file that holds it (NAME.pub).")
@click.option("--client-key", "client_key_file", help="The file of our own secret key (NAME.key).")
@click.option("--check", is_flag=True, help="Try every connection, say what would be sent, and end.")
def command(endpoint: str | None, config_file: Path | None, check: bool, **options: str | None) -> None:
    """Forward events and shares from ENDPOINT, a daemon's or relay's, to brokers, webhooks and files."""
    config = _config(endpoint, config_file, {k: v for k, v in options.items() if v is not None})
    start_logging("warning" if check else config.log.level)
    if check:
        sys.exit(_check(config))
    from streamseg.daemon.systemd import Service
    from streamseg.forward import Forwarder
    from streamseg.runtime.signals import Signals

    service = Service()
    forwarder = Forwarder(config, service.notify, service.watchdog_s)
    with Signals(forwarder.stop, forwarder.reopen):
        forwarder.run()


def _config(endpoint: str | None, config_file: Path | None, options: dict[str, str]) -> ForwardConfig:
    from streamseg.forward.settings import ForwardConfig, load_forward_config

    if config_file is not None:
        if endpoint is not None or options:
            raise UsageError("--config: has everything; remove ENDPOINT and the other options")
        return load_forward_config(config_file)
    tree: dict[str, Any] = {"endpoint": endpoint} if endpoint is not None else {}
    for option, value in options.items():
        if option in PLACES:
            kind, key = PLACES[option]
            tree.setdefault(kind, {})["main"] = {key: value}
        else:
            tree[option] = value
    if not tree.keys() & {kind for kind, _ in PLACES.values()}:
        raise UsageError("name a place: --mqtt, --webhook, --kafka, --out, or --config with several")
    try:
        return build_settings(ForwardConfig, tree)
    except ConfigError as error:
        raise ConfigError(*(_as_options(problem) for problem in error.problems)) from error


def _as_options(problem: str) -> str:
    """Replace setting names in a message by those of the options."""
    for option, (kind, key) in PLACES.items():
        problem = problem.replace(f"{kind}.main.{key}", f"--{option}").replace(f"{kind}.main", f"--{option}")
    return re.sub(r"\bclient_key_file\b", "--client-key", problem).replace("server_key:", "--server-key:")


def _check(config: ForwardConfig) -> int:
    """Print a line for the daemon and for each place; 1 where one cannot be reached."""
    from streamseg.forward.checking import check_daemon, check_place

    failed = 0
    checks: list[tuple[str, Callable[[], str]]] = [("daemon", partial(check_daemon, config))]
    checks += [(name, partial(check_place, name, sink)) for name, sink in config.sinks()]
    for name, run in checks:
        try:
            echo(f"ok   {name}: {run()}")
        except StreamsegError as error:
            failed += 1
            echo(f"FAIL {name}: {error}")
    return 1 if failed else 0
