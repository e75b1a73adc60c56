"""Install the systemd unit files."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

from streamseg.errors import OutputError, UsageError
from streamseg.runtime.files import atomic_write

RESTART_STEPS_SINCE = 254  # version of systemd
_HIDDEN = (
    "/home",
    "/root",
    "/run/user",
    "/tmp",
    "/var/tmp",
)  # from the service, by ProtectHome and PrivateTmp


def install_service(units: Path, settings: Path, *, gpu: bool = False) -> list[Path]:
    """Write the units of daemons, relays and forwarders, with drop-ins, into `units`; create `settings`.

    Returns the files written. Raises UsageError when the service could not see the command or its Python, and
    OutputError when a file cannot be written.
    """
    command = Path(sysconfig.get_path("scripts")).absolute() / "streamseg"
    if not command.is_file():
        raise UsageError(f"{command} does not exist; install the package first: pip install .")
    for needed in (command, Path(sys.executable).resolve()):
        check_visible(needed)
    written = []
    path = settings
    try:
        settings.mkdir(parents=True, exist_ok=True)
        for name, text in unit_files(command, gpu=gpu, version=systemd_version()).items():
            path = units / name
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, text)
            written.append(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); run it as root") from error
    return written


def uninstall_service(units: Path) -> list[Path]:
    """Remove the units and drop-ins that install_service wrote into a folder; returns what was removed.

    Drop-ins of other names stay, and with them their folder. Raises OutputError.
    """
    removed: list[Path] = []
    path = units
    try:
        for name in unit_files(Path("streamseg"), gpu=True, version=RESTART_STEPS_SINCE):
            path = units / name
            if path.is_file():
                path.unlink()
                removed.append(path)
        for folder in units.glob("streamseg*@.service.d"):
            if not any(folder.iterdir()):
                folder.rmdir()
    except OSError as error:
        raise OutputError(f"{path}: cannot be removed ({error.strerror}); run it as root") from error
    return removed


def unit_files(command: Path, *, gpu: bool, version: int) -> dict[str, str]:
    """The files for a command and a version of systemd, by their names below the folder of units."""
    source = unit_folder()
    backoff = version >= RESTART_STEPS_SINCE
    files: dict[str, str] = {}
    for unit, drop_ins in (
        ("streamseg@.service", ["gpu.conf"] * gpu + ["restart-backoff.conf"] * backoff),
        ("streamseg-relay@.service", ["restart-backoff.conf"] * backoff),
        ("streamseg-forward@.service", ["restart-backoff.conf"] * backoff),
    ):
        text = source.joinpath(unit).read_text()
        files[unit] = re.sub(r"(?m)^(Exec\w+)=\S+", lambda found: f"{found[1]}={command}", text)
        files |= {f"{unit}.d/{name}": source.joinpath(name).read_text() for name in drop_ins}
    return files


def check_visible(path: Path) -> None:
    """Raise UsageError for a program in a folder that services cannot see."""
    for folder in _HIDDEN:
        if path.is_relative_to(folder):
            raise UsageError(
                f"{path}: services cannot see {folder}; install into /opt/streamseg: "
                "/usr/bin/python3 -m venv /opt/streamseg && /opt/streamseg/bin/pip install ."
            )


def unit_folder() -> Path:
    """The folder of the unit files, in the installed package or in a checkout."""
    package = Path(__file__).resolve().parents[1]
    folder = package / "units"
    return folder if folder.is_dir() else package.parent / "systemd"


def systemd_version() -> int:
    """The major version of this machine's systemd, 0 where there is none."""
    try:
        output = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return 0
    found = re.match(r"systemd (\d+)", output)
    return int(found[1]) if found else 0


def reload_systemd() -> bool:
    """Have systemd read its units again; False where it does not run or refuses."""
    if not Path("/run/systemd/system").is_dir():
        return False
    return subprocess.run(["systemctl", "daemon-reload"], check=False).returncode == 0
