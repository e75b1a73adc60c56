"""The `streamseg` command: one module per command, loaded when it is used."""

from __future__ import annotations

import errno
import importlib
import importlib.util
import os
import re
import sys

import click

from streamseg.cli.conceal import conceal
from streamseg.config.redact import redact
from streamseg.errors import StreamsegError, UsageError, nearest
from streamseg.runtime.log import hide_secrets_of_tracebacks
from streamseg.runtime.terminal import echo, write_only_what_can_be_shown

COMMANDS = {
    "init": "Write a first configuration: asks for sources and tries each.",
    "run": "Decode, segment and publish streams until they end or Ctrl-C.",
    "check": "Check a configuration file without running it.",
    "capacity": "Say how many streams this machine holds, and what limits it.",
    "process": "Segment recorded files: one mask for each frame.",
    "segment": "Segment single pictures, to try a network.",
    "verify": "Check that a processed folder is complete.",
    "subscribe": "Receive masks and show, print or save them.",
    "watch": "Watch masks in a terminal: a live table and thumbnails.",
    "relay": "Pass masks of daemons on to many subscribers.",
    "forward": "Forward events and shares to MQTT, webhooks, Kafka and files.",
    "ctl": "Control a running daemon: status, streams, reload, snapshots.",
    "service": "Install the daemon as a systemd service.",
    "keygen": "Make a pair of keys, for a daemon or a subscriber.",
    "engine": "List, describe, import and export engines.",
    "model": "List networks, fetch their published weights, make engines of them.",
    "train": "Train a network on a folder of images and labels.",
    "eval": "Score an engine on images with ground truth.",
    "bench": "Measure the pipeline, engines and live streams.",
    "doctor": "Show what works on this machine, and how to install the rest.",
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"streamseg.cli.{cmd_name}").command
        command.name = cmd_name
        command.short_help = COMMANDS[cmd_name]
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="streamseg")
def cli() -> None:
    """Real-time video segmentation: streams in, label masks out."""


def main() -> None:
    """Run the command line; every expected failure is one line (or one a problem) and an exit code."""
    hide_secrets_of_tracebacks()
    write_only_what_can_be_shown()
    conceal(sys.argv)
    try:
        code = cli.main(prog_name="streamseg", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except StreamsegError as error:
        show_error(error)
        sys.exit(error.exit_code)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        echo(f"streamseg: {redact(_in_one_line(error))}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output has ended: keep the interpreter from flushing into the broken pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in _OUTSIDE:
            raise
        where = f"{redact(str(error.filename))}: " if error.filename else ""
        echo(f"streamseg: {where}cannot be written or read ({error.strerror})", err=True)
        sys.exit(1)


def show_error(error: StreamsegError) -> None:
    """Print each line of an expected failure on standard error."""
    for line in str(error).splitlines():
        echo(f"streamseg: {redact(line)}", err=True)


_OUTSIDE = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EEXIST,
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EMFILE, errno.ENFILE,
}  # fmt: skip
"""What a disk or a folder may refuse where no message of its own was made."""


MOVED = {
    "--crf": "--refinement-crf-on; --refinement live is the CRF on keyframes, with fusion",
    "--crf-every": "--refinement-every",
    "--ahead": "--refinement-lookahead; --refinement best sets it",
    "--fusion": "--refinement live",
    "--no-fusion": "--no-refinement-fusion-enabled",
    "--preset": "--refinement-crf-preset",
    "--quality": "--refinement-crf-quality",
    "--part-frames": "--segment-frames",
    "--keep-trying": "--retry-at-start",
    "--lanes": "--replicas",
}
"""Options of before, where they are unknown, and what they are called now."""


def _in_one_line(error: click.ClickException) -> str:
    """What is wrong on the command line, and which command's help explains it."""
    if isinstance(error, click.NoSuchOption) and error.option_name in MOVED:
        return f"{error.option_name}: is now {MOVED[error.option_name]}"
    text = error.format_message().rstrip(".").replace(". Did you mean", "; did you mean")
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None:
        return text
    if (wrong := re.match(r"No such command '(.*)'", text)) and isinstance(context.command, click.Group):
        near = nearest(wrong[1], context.command.list_commands(context))
        text = f"{wrong[0]}; did you mean {near!r}?" if near is not None else wrong[0]
    return f"{text[0].lower()}{text[1:]} (see {context.command_path} --help)"


def need_torch(what: str) -> None:
    """Raise a UsageError that says how to install torch, where it is missing."""
    if importlib.util.find_spec("torch") is None:
        raise UsageError(f"{what} needs torch; install it with: pip install 'streamseg[torch]'")
