"""Signals as they come to real processes: early, in the middle of a library's call, twice."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from tests.integration.daemons import Lines, environment
from tests.waiting import LIMIT_S, in_time, until

BLOCKED = """
import ctypes, sys, threading
from streamseg.runtime.log import start_logging
from streamseg.runtime.early_signals import hangups, take_early
from streamseg.runtime.signals import Signals
take_early()
print("early", flush=True)
{wait}
start_logging("info")
stop = lambda: print("stop", flush=True)
reload = lambda: print("reload", flush=True)
with Signals(stop, reload):
    print("entered", flush=True)
    {body}
print("left", flush=True)
"""


def process(wait: str, body: str) -> Lines:
    return Lines([sys.executable, "-c", BLOCKED.format(wait=wait, body=body)])


def test_a_hangup_during_the_imports_is_kept_and_told() -> None:
    with process("while not hangups: threading.Event().wait(0.01)", "pass") as child:
        child.wait("early")
        child.process.send_signal(signal.SIGHUP)
        child.wait("reload")
        child.wait("left")
        assert child.process.wait(LIMIT_S) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_stop_during_the_imports_is_a_clean_end(number: signal.Signals) -> None:
    with process("threading.Event().wait()", "pass") as child:
        child.wait("early")
        child.process.send_signal(number)
        assert child.process.wait(LIMIT_S) == 0
        assert "entered" not in child.lines


IMPORTING = """
import sys, threading
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "streamseg.cli":
            print("importing", flush=True)
            threading.Event().wait()
sys.meta_path.insert(0, Slow())
sys.argv = ["streamseg", *{words}]
from streamseg.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("words", "code"), [(["run", "x.toml"], 0), (["relay"], 0), (["process"], -2), (["--help"], -2), ([], -2)]
)
def test_ctrl_c_while_a_command_is_imported_prints_nothing(words: list[str], code: int) -> None:
    command = [sys.executable, "-c", IMPORTING.format(words=words)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"importing\n"
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=LIMIT_S) == (b"", b"")
        assert child.returncode == code


def test_a_process_that_a_library_holds_is_told_and_ends_in_time() -> None:
    """Takes 5 s: as long as the promise."""

    def took_s() -> float:
        with process("", "ctypes.CDLL(None).sleep(600); ctypes.CDLL(None).sleep(600)") as child:
            child.wait("entered")
            begun_s = time.monotonic()
            child.process.send_signal(signal.SIGTERM)
            child.wait("stop")
            assert child.process.wait(LIMIT_S) == 0
            took_s = time.monotonic() - begun_s
            assert "left" not in child.lines
            return took_s

    in_time(5.5, took_s)


def test_a_hangup_in_the_middle_of_a_librarys_call_is_told_each_time() -> None:
    with process("", "[ctypes.CDLL(None).sleep(600) for _ in range(9)]") as child:
        child.wait("entered")
        for _ in range(2):
            before = child.lines.count("reload")
            child.process.send_signal(signal.SIGHUP)
            until(lambda before=before: child.lines.count("reload") > before)  # type: ignore[misc]


def test_the_handlers_of_before_are_back_afterwards() -> None:
    from streamseg.runtime.signals import Signals

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with Signals(lambda: None, lambda: None):
        assert [signal.getsignal(number) for number in numbers] != before
    assert [signal.getsignal(number) for number in numbers] == before
    assert signal.set_wakeup_fd(-1) == -1
