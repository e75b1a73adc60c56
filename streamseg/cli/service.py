"""streamseg service"""

from __future__ import annotations

from pathlib import Path

import click

from streamseg.runtime.terminal import echo


@click.group()
def command() -> None:
    """Run daemons, relays and forwarders under systemd."""


@command.command()
@click.option("--gpu", is_flag=True, help="Let the service use NVIDIA GPUs.")
@click.option(
    "--units",
    type=click.Path(path_type=Path),
    default=Path("/etc/systemd/system"),
    help="The folder of unit files.",
)
@click.option(
    "--settings",
    type=click.Path(path_type=Path),
    default=Path("/etc/streamseg"),
    help="The folder of NAME.toml.",
)
def install(gpu: bool, units: Path, settings: Path) -> None:
    """Write the units of daemons, relays and forwarders, and create /etc/streamseg. Run it as root."""
    from streamseg.daemon.install import install_service, reload_systemd

    for path in install_service(units, settings, gpu=gpu):
        echo(f"wrote {path}")
    if not reload_systemd():
        echo("systemd has not read it yet: systemctl daemon-reload")
    echo(f"next: write {settings}/NAME.toml, then systemctl enable --now streamseg@NAME")


@command.command()
@click.option(
    "--units",
    type=click.Path(path_type=Path),
    default=Path("/etc/systemd/system"),
    help="The folder of unit files.",
)
def uninstall(units: Path) -> None:
    """Remove what install wrote; configurations and keys stay. Run it as root, with no service running."""
    from streamseg.daemon.install import reload_systemd, uninstall_service

    removed = uninstall_service(units)
    for path in removed:
        echo(f"removed {path}")
    if not removed:
        echo(f"{units}: nothing of streamseg is installed there")
    elif not reload_systemd():
        echo("systemd has not read it yet: systemctl daemon-reload")
