"""Turns runs into figures: medians, spreads, verdicts. Pure: no process, no clock."""

import dataclasses
import statistics


@dataclasses.dataclass(frozen=True)
class Spread:
    """Several measurements of one quantity."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values):
        values = list(values)
        return cls(statistics.median(values), min(values), max(values))


@dataclasses.dataclass(frozen=True)
class Asked:
    """The limit that a figure must keep (`bound`) and the value that it should reach (`goal`)."""

    bound: float
    goal: float | None = None
    at_least: bool = False

    def verdict(self, value):
        """ "ok", "goal missed" (but within the bound) or "over"."""
        if not self._holds(value, self.bound):
            return "over"
        if self.goal is not None and not self._holds(value, self.goal):
            return "goal missed"
        return "ok"

    def _holds(self, value, limit):
        return value >= limit if self.at_least else value <= limit


@dataclasses.dataclass(frozen=True)
class Figure:
    """One line of the results."""

    case: str
    what: str
    unit: str
    spread: Spread
    asked: Asked | None = None
    note: str = ""

    def verdict(self):
        return self.asked.verdict(self.spread.median) if self.asked else ""


def pairs(ours, theirs):
    """Our figure divided by theirs, run by run, because the machine's speed changes from minute to minute."""
    return Spread.of(our / their for our, their in zip(ours, theirs, strict=True))
