"""The model registry, ``data/models/registry.yaml``: ids, limits, licences, retirement dates and dated prices.

No other file of the course states a model's price, limit or date. A null there means "no sourced figure", never zero.
"""

from __future__ import annotations

import datetime as dt
import difflib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from course_lib.errors import ModelError

Kind = Literal["embedded", "hosted", "open weights"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LongPrompt(_Frozen):
    """Rates that replace the usual ones when a prompt is longer than ``above_tokens``, cached parts included."""

    above_tokens: int = Field(gt=0)
    input: float = Field(ge=0)
    output: float = Field(ge=0)


class Price(_Frozen):
    """US dollars per million tokens, list price, as published on ``as_of`` by ``source``.

    cache_read, cache_write_5m, cache_write_1h: rates of prompt caching; None means that the model has none.
    """

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cache_read: float | None = Field(default=None, ge=0)
    cache_write_5m: float | None = Field(default=None, ge=0)
    cache_write_1h: float | None = Field(default=None, ge=0)
    long_prompt: LongPrompt | None = None
    as_of: dt.date
    source: str = Field(min_length=3)

    def rates(self, prompt_tokens: int) -> tuple[float, float]:
        """(input, output) in dollars per million tokens for a prompt of that length."""
        if self.long_prompt is not None and prompt_tokens > self.long_prompt.above_tokens:
            return self.long_prompt.input, self.long_prompt.output
        return self.input, self.output


class ModelEntry(_Frozen):
    """One model. Sizes are tokens; parameters are billions, None where the maker does not publish them.

    gated: whether the weights are given out only after a form is accepted; None where that was not checked.
    retires: the announced date; retires_not_before: the maker's promise, where no date is announced.
    sampling: the sampling settings that its Messages endpoint takes beside the standard fields.
    file: the GGUF below ``data/models``, for embedded models.
    """

    id: str = Field(min_length=2)
    provider: str
    kind: Kind
    aliases: tuple[str, ...] = ()
    family: str = ""
    parameters_b: float | None = Field(default=None, gt=0)
    active_parameters_b: float | None = Field(default=None, gt=0)
    context: int | None = Field(default=None, gt=0)
    max_output: int | None = Field(default=None, gt=0)
    licence: str
    gated: bool | None
    released: dt.date | None = None
    retires: dt.date | None = None
    retires_not_before: dt.date | None = None
    price: Price | None = None
    sampling: tuple[str, ...] = ()
    file: str | None = None
    as_of: dt.date
    source: str = Field(min_length=3)
    notes: str = ""

    @model_validator(mode="after")
    def _coherent(self) -> ModelEntry:
        if self.kind == "embedded" and not self.file:
            raise ValueError(f"{self.id}: an embedded model needs a file")
        if self.price is None and not self.notes:
            raise ValueError(f"{self.id}: a null price needs its reason in notes")
        if self.context and self.max_output and self.max_output > self.context:
            raise ValueError(f"{self.id}: max_output is larger than context")
        return self

    def retired(self, on: dt.date) -> bool:
        """True when requests to it fail on that day, by its announced date."""
        return self.retires is not None and on >= self.retires


class Registry(_Frozen):
    """All models, in the order of the file. as_of: the day on which a person last went through the whole file."""

    as_of: dt.date
    default_embedded: str
    default_hosted: str
    models: tuple[ModelEntry, ...]

    @model_validator(mode="after")
    def _unique(self) -> Registry:
        names = [name for entry in self.models for name in (entry.id, *entry.aliases)]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"named twice: {', '.join(sorted(twice))}")
        if lost := {self.default_embedded, self.default_hosted} - set(names):
            raise ValueError(f"a default is not in the list: {', '.join(sorted(lost))}")
        return self

    def __contains__(self, name: object) -> bool:
        return any(name == entry.id or name in entry.aliases for entry in self.models)

    def entries(self, kind: Kind | None = None) -> Iterator[ModelEntry]:
        """Every entry, or those of one kind."""
        return (entry for entry in self.models if kind is None or entry.kind == kind)

    def get(self, name: str) -> ModelEntry:
        """The entry with that id or alias. Raises ModelError with the nearest ids when there is none."""
        for entry in self.models:
            if name == entry.id or name in entry.aliases:
                return entry
        names = {n.lower(): n for entry in self.models for n in (entry.id, *entry.aliases)}
        near = [names[n] for n in difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.4)]
        fix = f"did you mean {', '.join(near)}?" if near else "see data/models/registry.yaml for the ids"
        raise ModelError(f"the model id {name!r} is not in the registry", where="data/models/registry.yaml", fix=fix)


def registry(path: Path | None = None) -> Registry:
    """The registry, read once per file state. Raises ModelError that names the entry and field when it is malformed."""
    from course_lib.catalog import repo_root

    path = path or repo_root() / "data" / "models" / "registry.yaml"
    if not path.is_file():
        raise ModelError("the model registry is missing", where=str(path), fix="restore the file from the repository")
    return _load(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _load(path: Path, mtime_ns: int) -> Registry:
    import yaml

    try:
        return Registry.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as error:
        fix = "correct the entry; sizes are tokens, dates are YYYY-MM-DD, unknown figures are null"
        raise ModelError(f"the model registry is malformed: {error}", where=str(path), fix=fix) from error
