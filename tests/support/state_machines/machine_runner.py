"""Runs a machine: the same sequences each time, or for STATES_SOAK steps sequences that never were.

With STATES_FIRST=1 the first failing sequence is shown as it was found: making it short can take minutes.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

LENGTH = 50  # steps of a sequence


def run_machine(machine: type[RuleBasedStateMachine], tried, harness: str, steps: int, **given: object) -> None:
    """`given`: what all sequences share. Each step that was taken and found right is counted."""
    soak = int(os.environ.get("STATES_SOAK", "0"))
    counted, sequences = tried(harness, "steps"), tried(harness, "sequences")

    class Counting(machine):
        def __init__(self):
            sequences.add()
            super().__init__()

        def check_invariants(self, settings, output, runtimes):
            super().check_invariants(settings, output, runtimes)
            counted.add()

    vars_of = {"__qualname__": machine.__qualname__, "__name__": machine.__name__}
    for name, value in (vars_of | given).items():
        setattr(Counting, name, value)
    chosen = settings(
        max_examples=max(1, (soak or steps) // LENGTH),
        stateful_step_count=LENGTH,
        derandomize=not soak,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink)[: 1 + ("STATES_FIRST" not in os.environ)],
        report_multiple_bugs=False,
    )
    run_state_machine_as_test(Counting, settings=chosen)
