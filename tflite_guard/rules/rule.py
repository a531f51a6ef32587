"""What a rule is."""

from __future__ import annotations

import msgspec

from tflite_guard.results import Severity


class Rule(msgspec.Struct, frozen=True):
    """One rule. Its id is stable: manifests name it in `ignore`, code hosts in alerts.

    Sentences are Markdown of the simplest kind: code in backticks; in `details` also paragraphs, lists with `- ` and
    fenced code, which a terminal shows as they are.
    """

    id: str
    severity: Severity
    title: str
    meaning: str
    """One or two sentences: what it says."""
    advice: str
    """What to do."""
    finding: bool = True
    """It is a finding, which a manifest may `ignore`; the others are verdicts and errors."""
    proof: str = ""
    """How it is proven: the experiment or the comparison, in one or two sentences; empty where there is none."""
    details: str = ""
    """More on what to do, where the advice is not enough: code to write instead, how to tell look-alikes apart."""
    accept: str = "we have looked at it, and it does not matter here because …"
    """A reason with which somebody may `ignore` it, as an example."""

    @property
    def brief(self) -> str:
        """Its title within a sentence: a capital is lost at its start alone, and `NaN` stays."""
        first = self.title.split()[0]
        return self.title if first[1:] != first[1:].lower() else first.lower() + self.title[len(first) :]
