"""What every record is made of: the frozen base, scores by name, and a value with its interval."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

Metrics = dict[str, float]


class Record(BaseModel):
    """A frozen record that refuses unknown fields and prints as one JSON object."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def as_json(self) -> str:
        """Return the record as a single line of JSON; a number that is not finite becomes null."""
        return self.model_dump_json()


class Interval(Record):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float
