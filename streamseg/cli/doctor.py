"""streamseg doctor"""

from __future__ import annotations

import sys

import click

from streamseg.doctor import examine


@click.command()
def command() -> None:
    """Tell what works here (versions, decoders, devices), and what installs what is missing."""
    findings = examine()
    for finding in findings:
        mark = "ok  " if finding.ok else "MISS" if finding.required else "-   "
        click.echo(f"{mark} {finding.what:22} {finding.found}")
        if not finding.ok and finding.remedy:
            click.echo(f"     {'':22} → {finding.remedy}")
    if any(f.required and not f.ok for f in findings):
        sys.exit(1)
