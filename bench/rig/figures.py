"""From runs to figures: medians, spreads, and what is asked of them. Pure: no process, no clock."""

import dataclasses
import statistics


@dataclasses.dataclass(frozen=True)
class Spread:
    """Several measurements of one thing."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values):
        values = list(values)
        return cls(statistics.median(values), min(values), max(values))


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a figure must not pass (`bound`), and what it should reach (`goal`)."""

    bound: float
    goal: float | None = None
    at_least: bool = False

    def verdict(self, value):
        """ "ok", "goal missed" (but the bound is held) or "over"."""
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
    """How many times theirs each of ours is: run by run, since the machine changes from minute to minute."""
    return Spread.of(our / their for our, their in zip(ours, theirs, strict=True))
