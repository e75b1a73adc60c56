"""Files that appear whole though writers are killed and disks are full; locks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamseg.errors import OutputError
from streamseg.runtime.files import (
    atomic_write,
    locked,
    make_folder,
    replaced,
    write_file,
    written,
)
from tests.waiting import LIMIT_S


class Holder:
    """A process that runs code, says "ready" and waits to be killed."""

    def __init__(self, code: str, *args: object) -> None:
        code = f"import sys, time\nfrom pathlib import Path\nfrom streamseg.runtime import files\n{code}"
        command = [sys.executable, "-c", code, *map(str, args)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()
        assert self.process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_replaced_whole(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "masks.json"
    atomic_write(path, b"old", durable=durable)
    with replaced(path, durable=durable) as beside:
        beside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    atomic_write(path, "Größe", durable=durable)
    assert path.read_text("utf-8") == "Größe"
    assert os.listdir(tmp_path) == ["masks.json"]


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "masks.json"
    atomic_write(path, b"old")

    def failing() -> None:
        with replaced(path) as beside:
            beside.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        failing()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["masks.json"]


def test_a_writer_killed_halfway_leaves_the_old_file_and_does_not_disturb_the_next(tmp_path: Path) -> None:
    path = tmp_path / "masks.json"
    atomic_write(path, b"old")
    writer = Holder(
        "with files.replaced(Path(sys.argv[1])) as beside:\n"
        "    beside.write_text('half of a long text'); print('ready', flush=True); time.sleep(1000)",
        path,
    )
    writer.kill()
    assert path.read_text() == "old"
    atomic_write(path, b"new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["masks.json"]


def test_what_cannot_be_written_raises_and_leaves_the_old_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        atomic_write(tmp_path / "missing" / "masks.json", b"new")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        atomic_write(tmp_path / "folder", b"new")
    assert os.listdir(tmp_path) == ["folder"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if os.getuid() or subprocess.run(mount, stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_leaves_the_old_file_and_gives_its_room_back(small_disk: Path) -> None:
    path = small_disk / "masks.json"
    atomic_write(path, b"old")
    with pytest.raises(OSError, match="No space left"):
        atomic_write(path, bytes(100_000))
    assert path.read_bytes() == b"old"
    assert os.listdir(small_disk) == ["masks.json"]
    atomic_write(path, bytes(10_000))


HOLD = "with files.locked(Path(sys.argv[1])): print('ready', flush=True); time.sleep(1000)"


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = Holder(HOLD, path)
    with pytest.raises(BlockingIOError), locked(path, wait=False):
        pass
    got = threading.Event()

    def wait() -> None:
        with locked(path):
            got.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not got.is_set()
    holder.kill()
    waiting.join(LIMIT_S)
    assert got.is_set()
    with locked(path, wait=False):
        pass


def test_an_error_of_the_holder_passes_the_lock(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), locked(tmp_path / "lock"):
        (tmp_path / "missing").read_bytes()
    with locked(tmp_path / "lock", wait=False):
        pass


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_on_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    waiting = threading.Thread(target=lambda: held.append(holds(path)))
    held: list[bool] = []
    with locked(path):
        waiting.start()
        path.unlink()
    waiting.join(LIMIT_S)
    assert held == [True]


def holds(path: Path) -> bool:
    """Take the lock; whether nobody else can have it then."""
    with locked(path):
        try:
            with locked(path, wait=False):
                return False
        except BlockingIOError:
            return True


LIMITED = """
import resource, sys
from pathlib import Path
from streamseg.errors import OutputError
from streamseg.runtime.files import write_file
resource.setrlimit(resource.RLIMIT_FSIZE, (40, 40))
try:
    write_file(Path(sys.argv[1]), "x" * 100)
except OutputError as error:
    print(error)
"""


def test_what_has_no_room_is_one_line_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "engine.toml"
    path.write_text("old")
    ended = subprocess.run([sys.executable, "-c", LIMITED, path], capture_output=True, text=True, check=True)
    assert ended.stdout == f"{path}: cannot be written (File too large)\n"
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["engine.toml"]


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.tmp").mkdir()
    for path, said in (
        (tmp_path / "file" / "x", "file is a file, not a folder"),
        (tmp_path / "file" / "deeper" / "x", "not a folder"),
        (tmp_path / "folder", "Is a directory"),
        (tmp_path / "a", "Is a directory"),
        (Path("/proc/x"), r"cannot be written"),
    ):
        with pytest.raises(OutputError, match=said) as caught:
            write_file(path, b"")
        assert "\n" not in str(caught.value)
    with pytest.raises(OutputError, match="a file is in its place"):
        make_folder(tmp_path / "file")


def test_folders_are_made_for_what_is_written(tmp_path: Path) -> None:
    write_file(tmp_path / "a" / "b" / "c.json", "{}")
    assert (tmp_path / "a" / "b" / "c.json").read_text() == "{}"


def test_two_files_that_belong_together_appear_together_or_not_at_all(tmp_path: Path) -> None:
    def failing() -> None:
        with written(tmp_path / "engine.toml") as toml, written(tmp_path / "model.onnx") as graph:
            toml.write_text("new")
            graph.write_text("new")
            raise KeyboardInterrupt

    write_file(tmp_path / "engine.toml", "old")
    with pytest.raises(KeyboardInterrupt):
        failing()
    assert os.listdir(tmp_path) == ["engine.toml"]
    assert (tmp_path / "engine.toml").read_text() == "old"


def test_a_device_and_a_pipe_are_written_and_stay(tmp_path: Path) -> None:
    write_file(Path("/dev/null"), b"gone")
    assert Path("/dev/null").is_char_device()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_file(pipe, b"through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "far" / "a.toml"
    target.parent.mkdir()
    target.write_text("old")
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "dangling").symlink_to(tmp_path / "far" / "b.toml")
    for name in ("link", "dangling"):
        write_file(tmp_path / name, "new")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / name).read_text() == "new"
    assert target.read_text() == "new"
