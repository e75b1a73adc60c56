"""[streams.NAME.labels], [engine.labels]: what is published of the classes."""

from __future__ import annotations

from typing import Annotated, Self

import msgspec
from msgspec import Meta

from streamseg.config.settings import Settings

ClassName = Annotated[
    str,
    Meta(
        pattern=r"^(?=.*\S)[^\x00-\x1f\x7f-\x9f\u2028\u2029]{1,128}\Z",
        description="one line of text, of at most 128 characters",
    ),
]
_Level = Annotated[int, Meta(ge=0, le=255)]


class LabelsConfig(Settings, frozen=True):
    """Labels as they are published: merged, chosen, sure enough and large enough; what is not kept is 255."""

    merge: Annotated[
        dict[ClassName, tuple[str, ...]],
        Meta(
            description="Classes that become one, by its name: { vehicle = ['car', 'truck'] }; it has the "
            "colour of the first."
        ),
    ] = msgspec.field(default_factory=dict)
    only: Annotated[
        tuple[str, ...] | None,
        Meta(description="Publish only these classes, as they are called after merging; unset: all."),
    ] = None
    min_confidence: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(description="Least probability of a label, all members of a merged class together; unset: 0."),
    ] = None
    min_region: Annotated[
        Annotated[int, Meta(ge=0, le=1_000_000_000)] | None,
        Meta(
            description="Least size (pixels of the mask) of a connected region of one class; pixels are "
            "connected by an edge; unset: 0."
        ),
    ] = None
    colours: Annotated[
        dict[ClassName, tuple[_Level, _Level, _Level]],
        Meta(description="Other colours (RGB) of published classes: { vehicle = [0, 0, 142] }."),
    ] = msgspec.field(default_factory=dict)

    @property
    def given(self) -> dict[str, object]:
        """The fields that are set."""
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: value for name, value in values.items() if value is not None and value != {}}

    def over(self, engine: LabelsConfig) -> LabelsConfig:
        """A stream's settings, with its engine's where the stream has none."""
        if not engine.given:
            return self
        return msgspec.structs.replace(engine, **self.given)

    def or_none(self) -> Self | None:
        """None where nothing is set: then labels are the engine's own, and nobody looks."""
        return self if self.given else None
