"""streamseg relay"""

from __future__ import annotations

import re
from typing import Any

import click

from streamseg.cli.settings import options_from
from streamseg.config import Config, PublishConfig, build_settings
from streamseg.errors import ConfigError, UsageError
from streamseg.runtime.log import start_logging


@click.command()
@click.argument("upstreams", nargs=-1, metavar="UPSTREAM...")
@options_from(
    PublishConfig,
    "endpoint",
    "snapshot_endpoint",
    "queue",
    "curve_secret_key_file",
    "allowed_clients",
    "insecure",
    "max_connections",
)
@click.option(
    "--server-key",
    "server_keys",
    multiple=True,
    help="The daemons' public key, or the file that holds it; repeated, one for each UPSTREAM in order.",
)
def command(upstreams: tuple[str, ...], server_keys: tuple[str, ...], **options: Any) -> None:
    """Pass the masks of daemons on to many subscribers; only what these subscribe to is sent by the daemons.

    UPSTREAM is a daemon's publish.endpoint, such as tcp://10.0.0.7:5570. Where keys are used, the relay's own
    (--curve-secret-key-file) serves for both sides: its subscribers and the daemons.
    """
    from streamseg.daemon.machine import file_limit
    from streamseg.daemon.systemd import Service
    from streamseg.relay import Relay
    from streamseg.runtime.signals import Signals

    start_logging("info")
    file_limit()  # raises the soft limit to the hard one
    service = Service()
    try:
        config = build_settings(Config, {"publish": options}).publish
        relay = Relay(_addresses(upstreams, server_keys), config, service.notify, service.watchdog_s)
        with Signals(relay.stop, lambda: None):  # nothing to reload: the list of clients is watched
            relay.run()
    except ConfigError as error:
        raise ConfigError(*(_as_options(problem) for problem in error.problems)) from error


def _addresses(upstreams: tuple[str, ...], server_keys: tuple[str, ...]) -> list[tuple[str, bytes]]:
    from streamseg.net.curve_keys import key_or_file

    if len(server_keys) not in (0, 1, len(upstreams)):
        raise UsageError(
            f"--server-key: give one for all daemons, or one for each; {len(upstreams)} daemons have "
            f"{len(server_keys)}"
        )
    keys = [key_or_file(key, "--server-key") for key in server_keys] or [b""]
    return list(zip(upstreams, keys * (len(upstreams) // len(keys)), strict=True))


def _as_options(problem: str) -> str:
    """Replace setting names in a message by those of the options."""
    return re.sub(r"\bpublish\.(\w+)( = true)?", lambda found: "--" + found[1].replace("_", "-"), problem)
