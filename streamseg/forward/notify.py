"""Messages to people by apprise: e-mail, ntfy, Telegram, Slack and a hundred more services."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Sequence
from string import Template
from typing import TYPE_CHECKING

from streamseg.config.redact import remember
from streamseg.errors import ConfigError
from streamseg.forward.settings import AppriseConfig
from streamseg.forward.sink import Message, News, SinkError, Taken, read_secret_lines
from streamseg.wire.event import EventDocument

if TYPE_CHECKING:
    import apprise


class Notify:
    """All addresses of one file; a message that one of them does not take is sent to all of them again."""

    connects = False
    masks_every_s = pictures_every_s = 0.0

    def __init__(self, config: AppriseConfig) -> None:
        """Raises ConfigError for addresses that apprise does not understand."""
        self._config = config
        self.where = "apprise"
        self._apprise: apprise.Apprise | None = None
        logging.getLogger("apprise").setLevel(logging.CRITICAL)  # its lines hold what is secret
        self.open()

    def open(self) -> None:
        import apprise

        self._apprise = apprise.Apprise()
        lines = read_secret_lines(self._config.urls_file, "urls_file")
        lines = [line for line in lines if not line.startswith("#")]
        for number, url in enumerate(lines, 1):
            remember(url)
            if not self._apprise.add(url):
                raise ConfigError(
                    f"urls_file: {self._config.urls_file}: address {number} is none that apprise knows"
                )
        if not lines:
            raise ConfigError(f"urls_file: {self._config.urls_file} holds no address")
        names = sorted({str(server.service_name) for server in self._apprise})
        self.where = f"apprise ({', '.join(names)})"

    def send(self, messages: Sequence[Message], taken: Taken) -> None:
        assert self._apprise is not None
        for message in messages:
            words = words_of(message.said)
            title = Template(self._config.title).safe_substitute(words)
            text = Template(self._config.text).safe_substitute(words)
            if not self._apprise.notify(title=title, body=text, body_format="text"):
                raise SinkError(f"{self.where}: at least one address did not take the message")
            taken(message, "")

    def show(self, news: News) -> None:
        """Nothing: shares are not for people."""

    def keep(self) -> None:
        """Nothing ends by itself."""

    def close(self) -> None:
        self._apprise = None

    def check(self) -> str:
        self.open()
        return f"sends messages for {', '.join(self._config.states)}; nothing was sent now"


def words_of(said: EventDocument) -> dict[str, str]:
    """What a template may name, for one event message."""
    at = datetime.datetime.fromtimestamp(said.at_unix_ns / 1e9).astimezone()
    return {
        "stream": said.stream,
        "event": said.event,
        "zone": said.zone,
        "classes": ", ".join(said.classes),
        "state": said.state,
        "why": said.why,
        "percent": f"{said.value * 100:.1f}",
        "peak": f"{said.peak * 100:.1f}",
        "duration": str(datetime.timedelta(seconds=round(said.duration_s))),
        "time": at.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "id": said.id,
    }
