"""The turns that the loop made: `invoke loop.history`."""

from __future__ import annotations

import json as json_format
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.tasks import task

from llm_twin.flow.tasks import tell_errors
from llm_twin.settings import Settings

if TYPE_CHECKING:
    from invoke.context import Context

    from llm_twin.loop.audit import Turn

ROOT = Path(__file__).resolve().parents[1]
HEADS = ("RUN", "BEGAN", "OUTCOME", "WHY", "BEFORE", "MADE", "COST", "SAYS")


@task(
    help={"limit": "how many", "json": "print JSON, with all that is known"}, auto_shortflags=False
)
@tell_errors
def history(c: Context, limit: int = 20, json: bool = False) -> None:
    """Show the turns of the loop: why, what became of it, and what it cost."""
    from llm_twin.flow.views import table
    from llm_twin.loop.audit import Audit

    settings = Settings.load(root=ROOT)
    with closing(Audit(settings.home)) as audit:
        found = [(turn, audit.spent_by(turn.run)) for turn in audit.recent(limit)]
    if json:
        rows = [asdict(turn) | {"spent": asdict(spent)} for turn, spent in found]
        print(json_format.dumps(rows))
    elif found:
        print(table([HEADS, *(_row(turn, str(spent)) for turn, spent in found)]))
    else:
        print("The loop has not turned yet. Type: invoke loop")


def _row(turn: Turn, spent: str) -> tuple[str, ...]:
    began = datetime.fromtimestamp(turn.began, UTC).strftime("%Y-%m-%d %H:%M")
    return (
        turn.run, began, turn.outcome or "goes on", turn.fact("why"), turn.fact("before"),
        turn.fact("version"), spent, turn.reason,
    )  # fmt: skip
