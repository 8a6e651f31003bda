"""The ledger's newest rows → what is known of the prompts that an endpoint is asked, in the release's own numbers.

Under ``log: text`` the numbers come of the prompt that was kept, under ``log: features`` of those that the gateway kept
(``kept_features``). Rows from before these were kept, and of other sketches, lack some or all of them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cluster.prompt_features import PromptFeatures
from cluster.sketch import Sketch
from cluster.token_features import TokenFeatures, Tokens
from serving.ledger_rows import Exposure

FEATURES = "features"


@dataclass(frozen=True)
class LivePrompt:
    """One request as the drift test sees it; ``text`` is empty where none was kept."""

    request: str
    unit: str
    time_s: float
    features: PromptFeatures
    tokens: TokenFeatures | None
    text: str = ""

    @property
    def unit_mark(self) -> int:
        """32 bits that tell units apart."""
        return zlib.crc32(self.unit.encode())


@dataclass(frozen=True)
class Measure:
    """Measures prompts by one release's sketch; without one, what needs no release."""

    sketch: Sketch | None = None
    tokens: Tokens | None = None

    def kept_features(self, prompt: str) -> dict[str, Any]:
        """Return what a row keeps of a prompt under ``log: features``."""
        kept = PromptFeatures.of(prompt).kept()
        of_tokens = None if self.sketch is None else self.sketch.features(prompt, self.tokens)
        return kept if of_tokens is None or self.sketch is None else kept | of_tokens.kept(self.sketch.id)

    def prompt_of(self, row: Exposure) -> LivePrompt | None:
        """Return what a row says of its prompt; None where it says nothing that can be used."""
        kept: Any = row.kept
        if isinstance(text := kept.get("prompt"), str):
            return self.measured(text, row.request, row.unit, row.time_s)
        try:
            features = PromptFeatures.from_kept(kept[FEATURES])
        except (KeyError, TypeError, ValueError):
            return None
        return LivePrompt(row.request, row.unit, row.time_s, features, self._tokens_of(kept[FEATURES]))

    def _tokens_of(self, kept: Any) -> TokenFeatures | None:
        if self.sketch is None or kept.get("sketch") != self.sketch.id:
            return None
        try:
            return TokenFeatures.from_kept(kept)
        except (KeyError, TypeError, ValueError):
            return None

    def measured(self, text: str, request: str = "", unit: str = "", time_s: float = 0.0) -> LivePrompt:
        """Return what is known of a prompt whose text is there."""
        of_tokens = None if self.sketch is None else self.sketch.features(text, self.tokens)
        return LivePrompt(request, unit, time_s, PromptFeatures.of(text), of_tokens, text)

    def prompts_of(self, rows: Iterable[Exposure]) -> list[LivePrompt]:
        """Return the usable rows that users' requests left, in the order of time."""
        found = [self.prompt_of(row) for row in rows if not row.forced]
        return sorted(filter(None, found), key=lambda one: (one.time_s, one.request))


def newest_by_unit(prompts: list[LivePrompt], most: int) -> list[LivePrompt]:
    """Return the newest prompts, one a unit and none twice, in the order of time."""
    units, marks, found = set[str](), set[int](), list[LivePrompt]()
    for one in reversed(prompts):
        if len(found) == most:
            break
        if one.unit not in units and one.features.key not in marks:
            units.add(one.unit)
            marks.add(one.features.key)
            found.append(one)
    return found[::-1]
