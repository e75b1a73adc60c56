"""The model card: facts about an engine, written into its README.md between two markers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from streamseg.config.text_file import read_text
from streamseg.errors import TrainingError
from streamseg.evaluation import Scores
from streamseg.evaluation.metrics import shown
from streamseg.models.quantise import Quantised
from streamseg.runtime.files import write_file
from streamseg.training.recipe import TrainRecipe
from streamseg.training.resume import TABLES

BEGIN = "<!-- written by the export: what is between the markers is replaced -->"
END = "<!-- end of what the export writes -->"


class Run(NamedTuple):
    """Where the weights of a checkpoint are from."""

    began: str | None  # the file of weights that training began with, and its digest
    teachers: Sequence[str]  # each with its digest
    seed: int
    epoch: int
    epochs: int

    def __str__(self) -> str:
        began = "from scratch" if self.began is None else f"from the weights {self.began}"
        taught = f" and by the teachers {', '.join(self.teachers)}" if self.teachers else ""
        return f"{began}{taught} with seed {self.seed}, after epoch {self.epoch} of {self.epochs}"


class CardFacts(NamedTuple):
    """The facts that the export knows."""

    name: str
    recipe: TrainRecipe
    run: Run
    parameters: int
    macs: int
    quantised: Quantised | None
    scores: dict[str, Scores]
    megabytes: dict[str, float]
    others: Sequence[Run] = ()  # whose weights are averaged with those of `run`


def write_card(path: Path, facts: CardFacts) -> None:
    """Write the facts into `path`; text outside the markers stays as it is."""
    card = f"{BEGIN}\n{card_text(facts)}\n{END}"
    before, after = f"# {facts.name}\n\n", "\n"
    if path.exists():
        try:
            text = read_text(path)
        except UnicodeError as error:
            raise TrainingError(f"{path}: {error}") from error
        head, begin, rest = text.partition(BEGIN)
        _, end, tail = rest.partition(END)
        before, after = (head, tail) if begin and end else (f"{text.rstrip()}\n\n", "\n")
    write_file(path, before + card + after)


def card_text(facts: CardFacts) -> str:
    """The card in Markdown."""
    recipe = facts.recipe
    height, width = recipe.input_size
    sections = [
        f"Network `{recipe.network}`, {facts.parameters / 1e6:.2f} M parameters, {facts.macs / 1e9:.2f} GMAC "
        f"at {width}x{height}. Label set `{recipe.label_set}`, {len(recipe.classes)} classes. "
        f"Licence of the weights: {recipe.licence}.",
        "Files: " + ", ".join(f"{p} {size:.1f} MB" for p, size in facts.megabytes.items()) + ".",
        _trained(facts.run, facts.others),
    ]
    if facts.quantised is not None:
        tried = ", ".join(f"{name} {share:.2f}" for name, share in facts.quantised.agreement.items())
        sections.append(
            f"int8: calibrated on {_count(facts.quantised.pictures, 'training image')} by "
            f"{facts.quantised.calibration}, which agrees best with fp32 on "
            f"{_count(facts.quantised.compared, 'other')}. "
            f"Labels as in fp32, %: {tried}."
        )
    if facts.scores:
        sections.append(_score_table(facts.scores))
    of = " of the first run" if facts.others else ""
    sections.append(f"The whole recipe{of}:\n\n```toml\n{recipe_toml(recipe)}\n```")
    return "\n\n".join(sections)


def _trained(run: Run, others: Sequence[Run]) -> str:
    if not others:
        return f"Trained {run}: the averaged weights."
    runs = "".join(f"\n{number}. {one}" for number, one in enumerate([run, *others], start=1))
    return f"The mean of the averaged weights of {len(others) + 1} runs:\n{runs}"


def _count(count: int, what: str) -> str:
    return f"{count} {what}" + ("s" if count != 1 else "")


def recipe_toml(recipe: TrainRecipe) -> str:
    """The recipe as TOML, without the classes, which are in engine.toml."""
    settings: dict[str, Any] = msgspec.to_builtins(recipe)
    tables = [(name, settings.pop(name)) for name in TABLES]
    del settings["classes"]
    lines = [f"{key} = {_toml(value)}" for key, value in settings.items()]
    for name, table in tables:
        lines += ["", f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items())]
    return "\n".join(lines)


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(key)} = {_toml(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)  # numbers, text and lists are the same in TOML


def _score_table(scores: dict[str, Scores]) -> str:
    first = next(iter(scores.values()))
    rows = [f"| IoU on {_count(first.images, 'validation image')}, % | {' | '.join(scores)} |"]
    rows.append("|---" * (len(scores) + 1) + "|")
    for name in first.per_class:
        values = (s.per_class[name] for s in scores.values())
        rows.append(f"| {name} | {' | '.join(shown(v) for v in values)} |")
    rows.append(f"| **mIoU** | {' | '.join(f'**{shown(s.miou)}**' for s in scores.values())} |")
    rows.append(f"| pixel accuracy | {' | '.join(shown(s.pixel_accuracy) for s in scores.values())} |")
    return "\n".join(rows)
