"""The mistakes that people make with the labels that they want; docs/operating.md has a row for each."""

from __future__ import annotations

from tests.engines import write_tiny_engine
from tests.integration.mistakes import MISTAKES, Place, Words


def wanted(place: Place, *options: str) -> Words:
    return place.run("--source", place.clip(), *options)


def of_class_ids(place: Place) -> Words:
    """An engine that gives class ids, by its engine.toml, which is looked at first."""
    engine = write_tiny_engine(place.folder / "ids")
    toml = engine / "engine.toml"
    toml.write_text(toml.read_text().replace("[normalisation]", 'output = "labels"\n[normalisation]'))
    text = f'[engine]\nname = "{engine}"\nlabels = {{ min_confidence = 0.5 }}\n'
    return ["run", str(place.file("site.toml", f'{text}[streams.gate]\nsource = "{place.clip()}"\n'))]


MISTAKES |= {
    "an unknown class to merge": lambda p: wanted(p, "--merge", "warm=rad,green"),
    "an unknown class to publish": lambda p: wanted(p, "--only", "Red"),
    "a class merged twice": lambda p: wanted(p, "--merge", "a=red,green", "--merge", "b=blue,red"),
    "nothing to merge": lambda p: wanted(p, "--merge", "warm="),
    "a merge without a name": lambda p: wanted(p, "--merge", "red,green"),
    "a merge with the name of another class": lambda p: wanted(p, "--merge", "blue=red,green"),
    "a merged class to publish": lambda p: wanted(p, "--merge", "warm=red,green", "--only", "red"),
    "no class to publish": lambda p: [
        "run",
        str(p.file("site.toml", f'[streams.gate]\nsource = "{p.clip()}"\nlabels = {{ only = [] }}\n')),
    ],
    "a least confidence in percent": lambda p: wanted(p, "--min-confidence", "60"),
    "a least confidence of class ids": of_class_ids,
    "an unknown class in a recorded job": lambda p: [
        *["process", str(p.clip()), "--out", "out", "--engine", str(p.engine), "--only", "rad"]
    ],
}
