"""Child processes: real ones, that end by themselves, are killed, or would outlive us."""

from __future__ import annotations

import os
import signal
import sys
import threading

import msgspec
import psutil
import pytest

from streamseg.runtime.channel import ChannelChild, ChildLost
from streamseg.runtime.child import ChildProcess, how_it_ended
from tests.waiting import LIMIT_S

ECHO = "import sys\nfor line in sys.stdin: print(line.upper(), end='', flush=True)"
READY_THEN = "print('ready', flush=True); "
# Starts a process that ignores the end of everything, prints its number, and ends or waits.
WITH_GRANDCHILD = (
    "import subprocess, sys, time; "
    "waits = [sys.executable, '-c', 'import time; time.sleep(1000)']; "
    "g = subprocess.Popen(waits, stdout=subprocess.DEVNULL); "
    "print(g.pid, flush=True); "
)


class Word(msgspec.Struct):
    text: str


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def gone(pid: int) -> bool:
    """Whether a process has ended, within the deadline; a zombie of somebody else's counts as ended."""
    try:
        process = psutil.Process(pid)
        process.wait(LIMIT_S)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return process.status() == psutil.STATUS_ZOMBIE
    return True


def test_lines_go_in_and_come_out_until_the_input_is_closed() -> None:
    child = ChildProcess(python(ECHO), pipes=True)
    lines = child.lines()
    child.send(Word("gate"))
    assert next(lines) == b'{"TEXT":"GATE"}\n'
    assert child.end(LIMIT_S) == "exit code 0"
    assert gone(child.pid)


def test_how_it_ended_is_said_in_words() -> None:
    for code, how in [
        ("exit(0)", "exit code 0"),
        ("exit(3)", "exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", "signal SIGKILL"),
    ]:
        assert ChildProcess(python(code)).end(LIMIT_S) == how
    assert how_it_ended(-(signal.SIGRTMIN + 1)) == f"signal {signal.SIGRTMIN + 1}"


def test_one_that_does_not_end_is_killed() -> None:
    child = ChildProcess(python(READY_THEN + "import time; time.sleep(1000)"), pipes=True)
    assert next(child.lines()) == b"ready\n"
    assert child.end() == "killed"
    assert gone(child.pid)


@pytest.mark.parametrize("own_session", [False, True])
@pytest.mark.parametrize("then", ["exit(3)", "time.sleep(1000)"])
def test_what_a_child_started_ends_with_it(own_session: bool, then: str) -> None:
    child = ChildProcess(python(WITH_GRANDCHILD + then), pipes=True, own_session=own_session)
    grandchild = int(next(child.lines()))
    assert (os.getsid(grandchild) == child.pid) == own_session
    by_itself = then.startswith("exit")
    assert child.end(LIMIT_S if by_itself else 0.0) == ("exit code 3" if by_itself else "killed")
    assert gone(grandchild)


def test_another_thread_may_kill_it_at_any_time() -> None:
    child = ChildProcess(python(READY_THEN + "import time; time.sleep(1000)"), pipes=True)
    lines = child.lines()
    next(lines)
    threading.Thread(target=child.kill).start()
    assert list(lines) == []  # its output is closed
    assert child.end(LIMIT_S) == "signal SIGKILL"
    child.kill()  # not another process that has got its number


def test_writing_to_one_that_has_ended_or_to_a_closed_input_is_no_error() -> None:
    child = ChildProcess(python("pass"), pipes=True)
    assert list(child.lines()) == []
    for _ in range(100):
        child.send(Word("gate" * 10_000))
    child.close_input()
    child.send(Word("gate"))
    assert child.end(LIMIT_S) == "exit code 0"
    child.send(Word("gate"))


def test_a_program_that_is_not_there_leaves_no_descriptor_open() -> None:
    before = psutil.Process().num_fds()
    for start in (ChildProcess, ChannelChild):
        with pytest.raises(FileNotFoundError):
            start(["/no/such/program"])
    assert psutil.Process().num_fds() <= before


CHANNEL = (
    "import socket, sys; from streamseg.runtime.channel import Channel; "
    "channel = Channel(socket.socket(fileno=int(sys.argv[1]))); "
)


def test_a_channel_child_answers_and_its_descriptors_are_closed_with_it() -> None:
    before = psutil.Process().num_fds()
    child = ChannelChild(python(CHANNEL + "channel.send(channel.receive() + 1); channel.receive()"))
    assert child.channel.ask(41, LIMIT_S) == 42
    with pytest.raises(TimeoutError):
        child.channel.receive(0.0)
    assert child.end() == "killed"
    assert psutil.Process().num_fds() <= before


def test_a_channel_child_that_dies_is_noticed_and_says_how() -> None:
    child = ChannelChild(python(CHANNEL + "channel.receive(); exit(5)"))
    with pytest.raises(ChildLost):
        child.channel.ask("a question", LIMIT_S)
    assert child.end(LIMIT_S) == "exit code 5"
