"""The one way to draw on a terminal: rich, for text that is not ours and for terminals that can do less."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import rich.console
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from streamseg.errors import visible

LEAST_COLUMNS, LEAST_ROWS = 30, 4
"""Of a terminal on which something is drawn; on a smaller one lines are printed."""


def safe_text(text: str, style: str = "", **options: Any) -> Text:
    """Text of others, to be drawn with rich; takes the room that it is shown in."""
    return Text(visible(text), style, **options)


class Console(rich.console.Console):
    """rich's, which reads no markup from a text and lets no control character of one pass."""

    def __init__(self, *, force_terminal: bool | None = None, **options: Any) -> None:
        super().__init__(force_terminal=force_terminal, markup=False, emoji=False, highlight=False, **options)
        self._forced = bool(force_terminal)

    @property
    def draws(self) -> bool:
        """Whether something can be drawn, and drawn again in its place; else lines are to be printed."""
        return (
            (self._forced or self.file.isatty())
            and not self.is_dumb_terminal
            and self.encoding.startswith("utf")
            and self.width >= LEAST_COLUMNS
            and self.height >= LEAST_ROWS
        )

    @property
    def is_dumb_terminal(self) -> bool:
        """As rich's; a terminal of which nothing is known is one, too."""
        return super().is_dumb_terminal or (self.file.isatty() and not os.environ.get("TERM"))

    def render_str(self, text: str, *, style: str | Style = "", **options: Any) -> Text:
        """As rich's; what is laid out is what will be shown."""
        return super().render_str(visible(text), style=style, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich's; whatever was laid out without safe_text() is escaped here."""
        for segment in super().render(renderable, options):
            if not segment.control and not segment.text.isprintable() and segment.text != "\n":
                lines = "\n".join(map(visible, segment.text.split("\n")))
                yield Segment(lines, segment.style)
            else:
                yield segment
