"""The ``parent:`` block of the job file: what a job was retrained from.

Written by `hone retrain`, never by hand, and carried by the run, its release and its version, so that every child leads
back to what it came from.
"""

from __future__ import annotations

from pydantic import Field

from cluster.blocks import Block, Text


class ParentSpec(Block):
    """The run and release that a child job goes on from."""

    run: Text = Field(description="The run that the parent's release is of.")
    release: Text = Field(description="The parent's release, NAME@N.")
    endpoint: Text = Field(description="The endpoint whose feedback the new rows are.")
