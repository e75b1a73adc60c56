"""Print what travels to the GPU machine, and fail above LIMIT_MIB: python tools/device/travels.py [ROOT]."""

import subprocess
import sys
from pathlib import Path

LIMIT_MIB = 64
CARRIED = (".device/site.tar.xz", ".device/native", ".device/data", ".device", ".device-data")


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(one.stat().st_size for one in files if one.is_file() and not one.is_symlink())


def tree(root: Path) -> int:
    """Bytes of what git tracks, or does not know and does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=root, capture_output=True, check=True
    )
    return sum(size(root / name) for name in set(listed.stdout.decode().split("\0")) if name)


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    rows = {"the tree (tracked and untracked, not ignored)": tree(root)}
    rows |= {name: size(root / name) for name in CARRIED}
    for name, count in rows.items():
        print(f"{count / 2**20:6.1f} MiB  {name}")
    whole = (rows["the tree (tracked and untracked, not ignored)"] + rows[".device"]) / 2**20
    print(f"{whole:6.1f} MiB  in all, without .device-data")
    if whole > LIMIT_MIB:
        sys.exit(f"{whole:.1f} MiB travel: must be at most {LIMIT_MIB}; carry less data (--data none)")


if __name__ == "__main__":
    main()
