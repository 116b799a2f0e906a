"""An exact log of calls as their clients saw them, and which decisions about them were certainly wrong.

A client does not see the moment of a decision, only two moments around it. So a decision is wrong if it is wrong
wherever it lies between them: no order of the calls explains it. Pure: no process, no clock.
"""

import dataclasses
from collections.abc import Mapping

CONCURRENCY = "concurrency"


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a call uses of one limit: `true` once it has ended, and before that what is held, from `least` to `most`."""

    true: int
    least: int
    most: int


@dataclasses.dataclass(frozen=True)
class Entry:
    """A call: when it was decided about, and when it ended. Seconds, each as the earliest and the latest moment."""

    is_admitted: bool
    decided: tuple[float, float]
    # Of an admitted call.
    ended: tuple[float, float] | None = None
    # What the response said is left, by dimension.
    left: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def is_surely_before(self, other):
        return self.decided[1] <= other.decided[0]

    def may_be_before(self, other):
        return self.decided[0] < other.decided[1]


class ExactLog:
    """The calls of one caller, beside its limits.

    `limits` and `costs`: by dimension; the limit of concurrency has no cost. `window`: seconds.
    """

    def __init__(self, calls, limits, costs, window=60.0):
        self._calls = calls
        self._admitted = sorted((call for call in calls if call.is_admitted), key=lambda call: call.decided[1])
        self._at_once = limits.get(CONCURRENCY)
        self._limits = {name: limit for name, limit in limits.items() if name != CONCURRENCY}
        self._costs = costs
        self._window = window

    def refused(self):
        return [call for call in self._calls if not call.is_admitted]

    def admissions_beyond_a_limit(self):
        """Calls that were admitted although the ones before them had left no room.

        Taken in the order of their latest moments: calls that lie in one window do so in any order.
        """
        return [call for number, call in enumerate(self._admitted) if self._is_beyond(call, self._admitted[:number])]

    def _is_beyond(self, call, before):
        now = call.decided[1]
        counted = [other for other in before if other.decided[0] > now - self._window]
        if any(self._least(name, [*counted, call], call) > limit for name, limit in self._limits.items()):
            return True
        if self._at_once is None or call.ended[0] <= now:
            return False
        return 1 + sum(other.ended[0] > now for other in before) > self._at_once

    def refusals_with_room(self):
        """Calls that were refused although every limit had room for them."""
        return [call for call in self.refused() if self._has_room(call)]

    def _has_room(self, call):
        counted = [
            other
            for other in self._admitted
            if other.may_be_before(call) and other.decided[1] > call.decided[0] - self._window
        ]
        if any(self._most(name, counted, call) > limit for name, limit in self._limits.items()):
            return False
        in_flight = [other for other in counted if other.ended[1] > call.decided[0]]
        return self._at_once is None or len(in_flight) < self._at_once

    def refusals_without_room(self):
        """Calls that were refused and certainly had to be. What is in neither list depends on moments nobody saw."""
        return [call for call in self.refused() if self._has_no_room(call)]

    def _has_no_room(self, call):
        counted = self._surely_counted(call)
        if any(self._least(name, [*counted, call], call) > limit for name, limit in self._limits.items()):
            return True
        in_flight = [other for other in counted if other.ended[0] >= call.decided[1]]
        return self._at_once is not None and len(in_flight) >= self._at_once

    def promises_beyond_a_limit(self):
        """Calls whose response said that more is left of a limit than is."""
        return [call for call in self._calls if self._promises_too_much(call)]

    def _promises_too_much(self, call):
        counted = self._surely_counted(call) + [call] * call.is_admitted
        used = {name: self._least(name, counted, call) for name in call.left}
        return any(left > max(self._limits[name] - used[name], 0) for name, left in call.left.items())

    def _surely_counted(self, call):
        since = call.decided[1] - self._window
        return [other for other in self._admitted if other.is_surely_before(call) and other.decided[0] > since]

    def _least(self, name, counted, at):
        """What these calls used at least when `at` was decided about."""
        cost = self._costs[name]
        in_any_case = min(cost.least, cost.true)
        return sum(
            cost.true if _has_ended(call, at) else cost.least if _is_in_flight(call, at) else in_any_case
            for call in counted
        )

    def _most(self, name, counted, at):
        """What these calls and `at` used at most when it was decided about."""
        cost = self._costs[name]
        most = max(cost.most, cost.true)
        return most + sum(cost.true if _has_ended(call, at) else most for call in counted)


def _has_ended(call, at):
    """Whether `call` has surely ended when `at` is decided about."""
    return call.ended is not None and call.ended[1] <= at.decided[0]


def _is_in_flight(call, at):
    """Whether `call` is surely in flight, or itself what is decided about."""
    if call.ended is None:
        return call is at
    return (call is at or call.is_surely_before(at)) and call.ended[0] >= at.decided[1]
