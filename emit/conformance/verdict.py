"""What the outcomes mean: features, what was required, what was expected to fail. No I/O here."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Feature", "Outcome", "Verdict", "expected_failures", "judge"]


@dataclass(frozen=True)
class Outcome:
    """
    How one scenario went in one codec.

    Attributes:
        result: ``passed``, ``failed`` or ``skipped``.
        reason: Why it failed or was skipped: what was sent, expected and got.
        sent: What it was last sent, if it failed.
        stderr: The end of what it said on standard error, if it failed.
        seconds: What it took.
        overdue: Whether it failed by letting us wait.
    """

    codec: str
    feature: str
    name: str
    doc: str
    result: str
    reason: str = ""
    sent: str = ""
    stderr: str = ""
    seconds: float = 0.0
    overdue: bool = False

    @property
    def title(self) -> str:
        """How a list of expected failures calls it."""
        return f"{self.codec}/{self.feature}/{self.name}"


@dataclass(frozen=True)
class Feature:
    """All outcomes of a feature, in all codecs."""

    name: str
    outcomes: tuple[Outcome, ...]

    @property
    def holds(self) -> bool:
        """Whether each of its scenarios was played, and passed."""
        return all(outcome.result == "passed" for outcome in self.outcomes)


@dataclass(frozen=True)
class Verdict:
    """
    What came out.

    Attributes:
        features: In the order of the report.
        required: Their names.
        failed: Outcomes that should not be: failures of required features, and scenarios of
            them that were skipped, but for those expected to fail.
        expected: Failures that were expected.
        stale: Expected failures that passed, or that there is no scenario for.
    """

    features: tuple[Feature, ...]
    required: tuple[str, ...]
    failed: tuple[Outcome, ...]
    expected: tuple[Outcome, ...]
    stale: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        return 1 if self.failed or self.stale else 0

    @property
    def held(self) -> list[str]:
        """The features in which everything passed."""
        return [feature.name for feature in self.features if feature.holds]

    def count(self, result: str) -> int:
        outcomes = (outcome for feature in self.features for outcome in feature.outcomes)
        return sum(outcome.result == result for outcome in outcomes)


def judge(
    outcomes: Sequence[Outcome],
    required: Collection[str],
    expected: Collection[str] = (),
    known: Collection[str] = (),
) -> Verdict:
    """
    Args:
        outcomes: All that were played.
        required: Names of features; ``all`` stands for every one.
        expected: Titles of outcomes that are expected to fail.
        known: Titles of all scenarios, of which *outcomes* may be some.
    """
    features = _by_feature(outcomes)
    names = [f.name for f in features if f.name in required or "all" in required]
    wrong = [o for o in outcomes if o.result == "failed" and o.title not in expected]
    skipped = [o for o in outcomes if o.result == "skipped" and o.title not in expected]
    passed = {outcome.title for outcome in outcomes if outcome.result == "passed"}
    titles = {*known, *(outcome.title for outcome in outcomes)}
    return Verdict(
        features=tuple(features),
        required=tuple(names),
        failed=tuple(o for o in [*wrong, *skipped] if o.feature in names),
        expected=tuple(o for o in outcomes if o.result == "failed" and o.title in expected),
        stale=tuple(title for title in expected if title in passed or title not in titles),
    )


def expected_failures(text: str) -> list[str]:
    """The titles in a list of expected failures: one a line; ``#`` begins a remark."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def _by_feature(outcomes: Iterable[Outcome]) -> list[Feature]:
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.feature, []).append(outcome)
    return [Feature(name, tuple(mine)) for name, mine in found.items()]
