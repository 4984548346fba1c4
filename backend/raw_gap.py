"""Why raw labels give a lower score: the ways in which the text of the gold tokens differs from the label.

A token may reach beyond the label: ``-1, -2`` is labelled, but the token is ``(-`` and so its text is ``(-1, -2``. A probe
that points at exactly the right tokens is then wrong under raw comparison.
"""

from __future__ import annotations

from dataclasses import dataclass

from backend.store import Store


@dataclass(frozen=True, slots=True)
class Way:
    """One way in which decoded and raw gold differ."""

    before: str | None  # what the tokens hold before the label; None where the label is not inside the tokens' text
    after: str | None
    n: int  # slots of the run
    decoded: str  # one example
    raw: str
    example: str  # its id

    @property
    def name(self) -> str:
        """Return the way in words."""
        if self.before is None or self.after is None:
            return "written differently"
        added = [f"{self.before!r} before it"] * bool(self.before) + [f"{self.after!r} after it"] * bool(self.after)
        return " and ".join(added)


def raw_gap(store: Store, run: int, *, limit: int = 12) -> tuple[list[Way], int, int]:
    """Return the most frequent ways, how many slots differ in any, and how many slots are present in gold."""
    differ, n = store.query(
        "SELECT SUM(gold_decoded <> gold_raw), COUNT(*) FROM labels WHERE run = ? AND gold_present", (run,)
    )[0]
    found = store.query(
        """SELECT CASE WHEN at > 0 THEN substr(gold_decoded, 1, at - 1) END AS before,
             CASE WHEN at > 0 THEN substr(gold_decoded, at + length(gold_raw)) END AS after,
             COUNT(*) AS n, gold_decoded, gold_raw, MIN(example)
           FROM (SELECT *, instr(gold_decoded, gold_raw) AS at FROM labels JOIN examples USING (run, number)
                 WHERE run = ? AND gold_present AND gold_decoded <> gold_raw)
           GROUP BY before, after ORDER BY n DESC, before, after LIMIT ?""",
        (run, limit),
    )
    return [Way(*row) for row in found], differ or 0, n
