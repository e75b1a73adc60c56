"""A hook of MkDocs: adds the pages outside docs/, the design pages and one API page for each package."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {  # in the repository → in the site
    "README.md": "index.md",
    "examples/README.md": "examples.md",
    "engines/camvid-lite/README.md": "camvid-lite.md",
    "engines/camvid-slim/README.md": "camvid-slim.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "tools/device/README.md": "device.md",
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    design = sorted((ROOT / "docs/design").glob("*.md"))
    titles = [path.read_text("utf-8").split("\n")[0].lstrip("# ") for path in design]
    pages = [{title: f"design/{path.name}"} for title, path in zip(titles, design, strict=True)]
    config.nav = [*(config.nav or []), {"Design": pages}, {"API": [{n: f"api/{n}.md"} for n in packages()]}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, target in PAGES.items():
        text = (ROOT / source).read_text("utf-8")
        files.append(File.generated(config, target, content=_linked(text, source, config.repo_url or "")))
    for name in packages():
        files.append(
            File.generated(config, f"api/{name}.md", content=f"# streamseg.{name}\n\n{_modules(name)}")
        )
    return files


def on_page_markdown(markdown: str, page: object, config: MkDocsConfig, files: Files) -> str:
    source = page.file.src_uri  # type: ignore[attr-defined]
    if source in PAGES.values() or source.startswith("api/"):
        return markdown
    return _linked(markdown, f"docs/{source}", config.repo_url or "")


def packages() -> list[str]:
    """The entries at the top of the package."""
    found = {p.parent.name for p in ROOT.glob("streamseg/*/__init__.py")}
    return sorted(found | {p.stem for p in ROOT.glob("streamseg/[a-z]*.py")})


def _modules(package: str) -> str:
    """An entry for each module of a package; those that import an extra are read, never run."""
    folder = ROOT / "streamseg" / package
    paths = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths
    ]
    public = [name for name in names if not name.rpartition(".")[2].startswith("_")]
    return "\n".join(f"::: {name}\n    options:\n      show_submodules: false\n" for name in public)


def _linked(text: str, source: str, repository: str) -> str:
    """Links between files of the repository as links between pages of the site, or to the repository."""
    target = PAGES.get(source, source.removeprefix("docs/"))

    def link(found: re.Match[str]) -> str:
        path, anchor = found[2], found[3] or ""
        if not path or "://" in path or path.startswith(("mailto:", "/")):
            return found[0]
        inside = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        page = PAGES.get(inside) or (inside.removeprefix("docs/") if inside.startswith("docs/") else "")
        if page and (ROOT / inside).is_file():
            return f"{found[1]}({posixpath.relpath(page, posixpath.dirname(target) or '.')}{anchor})"
        return f"{found[1]}({repository}/blob/main/{inside}{anchor})"

    return re.sub(r"(!?\[[^\]]*\])\(([^)#\s]*)(#[^)\s]*)?\)", link, text)
