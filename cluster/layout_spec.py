"""How a source writes its rows, as a job says it: the format's name, and which of its columns are ours.

Shared by every block of the job file that names rows: the data, each source of its mixture, and general rows.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cluster.blocks import Text, did_you_mean, refusal

COLUMNS = ("messages", "prompt", "completion", "text", "label", "references", "group", "system", "synthetic")

DataFormat = Literal["auto", "messages", "sharegpt", "alpaca", "prompt_completion", "classification", "text"]
Columns = Annotated[dict[str, Text], Field(json_schema_extra={"propertyNames": {"enum": list(COLUMNS)}})]


def refuse_unknown_columns(columns: dict[str, str]) -> None:
    """Raise a refusal that names the first key which is none of our columns."""
    for name in columns:
        if name not in COLUMNS:
            raise refusal(
                ["columns", name],
                f"{name!r} is none of our columns{did_you_mean(name, COLUMNS)}",
                f"Write OUR NAME: YOUR COLUMN, with our name one of {', '.join(COLUMNS)}.",
            )
