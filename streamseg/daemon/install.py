"""Putting the unit files in place."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

from streamseg.errors import OutputError, UsageError

BACKOFF_SINCE = 254  # the systemd that knows RestartSteps=
_HIDDEN = (
    "/home",
    "/root",
    "/run/user",
    "/tmp",
    "/var/tmp",
)  # from the service, by ProtectHome and PrivateTmp


def install_service(
    units: Path, settings: Path, *, command: Path | None = None, gpu: bool = False
) -> list[Path]:
    """Write streamseg@.service and its drop-ins into the folder `units`, and make the folder `settings`.

    Returns what was written. Raises UsageError when the service could not see the command or its Python, and
    OutputError when a file cannot be written.
    """
    command = command or Path(sysconfig.get_path("scripts")) / "streamseg"
    if not command.is_file():
        raise UsageError(f"{command} does not exist; install the package first: pip install .")
    for path in (command.absolute(), Path(sys.executable).resolve()):
        if hidden := [folder for folder in _HIDDEN if path.is_relative_to(folder)]:
            raise UsageError(
                f"{path}: services cannot see {hidden[0]}; install into /opt/streamseg: "
                "/usr/bin/python3 -m venv /opt/streamseg && /opt/streamseg/bin/pip install ."
            )
    source = unit_folder()
    unit = source.joinpath("streamseg@.service").read_text()
    unit = re.sub(r"^ExecStart=\S+", f"ExecStart={command.absolute()}", unit, flags=re.MULTILINE)
    files = {units / "streamseg@.service": unit}
    drop_ins = units / "streamseg@.service.d"
    if gpu:
        files[drop_ins / "gpu.conf"] = source.joinpath("gpu.conf").read_text()
    if systemd_version() >= BACKOFF_SINCE:
        files[drop_ins / "restart-backoff.conf"] = source.joinpath("restart-backoff.conf").read_text()
    path = settings
    try:
        settings.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); run it as root") from error
    return list(files)


def unit_folder() -> Path:
    """Where the unit files lie: in the installed package, or in a checkout."""
    package = Path(__file__).resolve().parents[1]
    folder = package / "units"
    return folder if folder.is_dir() else package.parent / "systemd"


def systemd_version() -> int:
    """The major version of this machine's systemd, 0 where there is none."""
    try:
        said = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return 0
    found = re.match(r"systemd (\d+)", said)
    return int(found[1]) if found else 0


def reload_systemd() -> bool:
    """Have a running systemd read its units again; False where none runs or it refuses."""
    if not Path("/run/systemd/system").is_dir():
        return False
    return subprocess.run(["systemctl", "daemon-reload"], check=False).returncode == 0
