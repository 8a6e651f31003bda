"""The body of /v1/feedback → a row of the ledger.

What a request was worth: a value (a number or true/false), a label, or a correction, under the name of an outcome. A
correction is text of a user's, so it is kept, redacted, only where the endpoint keeps text; elsewhere it is refused,
since accepting it would promise a use that cannot come.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster.blocks import WORD_PATTERN
from cluster.errors import RequestRefused
from cluster.personal_data import mask_personal_data
from serving.endpoint import Endpoint
from serving.ledger_rows import Outcome

DEFAULT_OUTCOME = "success"


class Feedback(BaseModel):
    """What a client says about a request."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    request_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]
    name: Annotated[str, Field(pattern=WORD_PATTERN, max_length=63)] | None = None
    value: float | None = None
    label: Annotated[str, Field(max_length=1000)] | None = None
    correction: Annotated[str, Field(max_length=100_000)] | None = None
    source: Annotated[str, Field(pattern=WORD_PATTERN, max_length=63)] = "client"


def outcome_of(body: Mapping[str, Any], endpoint: Endpoint, now_s: float) -> Outcome:
    """Return the outcome that a body reports. Raises RequestRefused that names the field."""
    try:
        said = Feedback.model_validate(dict(body))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RequestRefused(f"{where}: {first['msg']}", "Correct this field.", where) from None
    if said.value is None and said.label is None and said.correction is None:
        raise RequestRefused("the feedback says nothing", "Give a value, a label or a correction.", "value")
    if said.correction is not None and endpoint.log != "text":
        raise RequestRefused(
            f"corrections are kept only with log: text, and this endpoint has log: {endpoint.log}",
            "Leave the correction out.",
            "correction",
        )
    decides = endpoint.experiment.outcome if endpoint.experiment else DEFAULT_OUTCOME
    return Outcome(
        request=said.request_id,
        time_s=now_s,
        name=said.name or decides,
        value=said.value,
        label=_kept(said.label),
        correction=_kept(said.correction),
        source=said.source,
    )


def _kept(text: str | None) -> str | None:
    """Return a text as it may be kept; no database keeps NUL."""
    return None if text is None else mask_personal_data(text.replace("\0", ""))
