"""What `streamseg forward --check` finds: each connection tried, nothing sent."""

from __future__ import annotations

import time

from streamseg.client.receiver import Receiver
from streamseg.errors import StreamsegError
from streamseg.forward.intake import Intake
from streamseg.forward.latest import Latest
from streamseg.forward.places import make_sink
from streamseg.forward.settings import ForwardConfig, SinkConfig
from streamseg.forward.store import Store
from streamseg.net.curve_keys import client_keys

ANSWER_WITHIN_S = 5.0
SETTLED_S = 1.5  # states come once a second


def check_daemon(config: ForwardConfig) -> str:
    """Connect, and name the streams; raises StreamsegError."""
    keys = client_keys(config.server_key or None, config.client_key_file or None)
    store, latest = Store(None, [], most_bytes=1 << 20), Latest()
    receiver = Receiver(config.endpoint, [b"status/"], True, Intake(store, latest, past=False), keys)
    try:
        deadline_s = time.monotonic() + ANSWER_WITHIN_S
        while not receiver.connected:
            if time.monotonic() > deadline_s:
                raise StreamsegError(f"{config.endpoint}: no daemon answers; does it run, and there?")
            time.sleep(0.05)
        time.sleep(SETTLED_S)
        latest.connected = True
        streams = latest.delivering()
    finally:
        receiver.close()
        store.close()
    names = ", ".join(f"{name}{'' if on else ' (silent)'}" for name, on in sorted(streams.items()))
    return f"{config.endpoint}: {names or 'no streams'}"


def check_place(name: str, config: SinkConfig) -> str:
    """Connect to a place; what would be sent. Raises StreamsegError."""
    sink = make_sink(name, config)
    try:
        words = sink.check()
        return f"{sink.where}: {words}"
    finally:
        sink.close()
