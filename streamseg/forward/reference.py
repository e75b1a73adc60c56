"""configs/forward-reference.toml: every setting of `streamseg forward`, written from the settings.

python -m streamseg.forward.reference > configs/forward-reference.toml
"""

from __future__ import annotations

from streamseg.config.reference import reference_of
from streamseg.forward.settings import ForwardConfig

_EXAMPLES = {
    "mqtt": ("home", {"url": "mqtt://broker:1883"}),
    "webhook": ("pager", {"url": "https://example.org/hook"}),
    "kafka": ("bus", {"brokers": "broker:9092"}),
    "file": ("log", {"path": "events.jsonl"}),
    "apprise": ("phone", {"urls_file": "apprise.urls"}),
}


def forward_reference_toml() -> str:
    """The text of configs/forward-reference.toml."""
    head = (
        "Every setting of streamseg forward, with its default. Made by: python -m streamseg.forward.reference"
    )
    return reference_of(ForwardConfig, head, _EXAMPLES)


if __name__ == "__main__":
    print(forward_reference_toml(), end="")
