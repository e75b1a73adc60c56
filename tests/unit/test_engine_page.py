"""docs/engines.md has every setting of engine.toml, as the class that reads it says."""

from __future__ import annotations

from tools.engine_page import PAGE, page, tables


def test_the_page_is_that_of_the_settings() -> None:
    text = PAGE.read_text("utf-8")
    assert text == page(text), "run: python tools/engine_page.py"
    assert tables().count("\n| `") > 20
