"""What the work and the seconds of both ways say: which is chosen, what is measured, and what is told of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lib_adapters.patching import apply_mode
from lib_adapters.patching.apply_mode import ROUGHLY, WELL, ModeSelector
from lib_adapters.patching.cost import LatentShape
from lib_adapters.prompt.schedule import SamplingStep, parse_curve

RAMP, LATER = parse_curve("0@0,1@1"), parse_curve("0@0.7,1@1")  # of 5 steps: 4 changes, 2 changes
NOW = SamplingStep(0, 5, model_calls=10)
RUN = LatentShape(2, 8, 8)


def target(name, *curves):
    dials = [SimpleNamespace(request=SimpleNamespace(unet=curve, window=None)) for curve in curves or (RAMP,)]
    patches = [SimpleNamespace(scheduled=dial) for dial in (*dials, None)]
    return SimpleNamespace(name=name, patches=patches, ref=SimpleNamespace(parameter=lambda: torch.zeros(1)))


class Plan:
    """A Motion's part in it: targets by name, and those that nobody may choose for."""

    def __init__(self, *names, fixed=()):
        self.undecided = {name: target(name) for name in names}
        self.fixed = {name: target(name) for name in fixed}
        self.modes = {**dict.fromkeys(names, "merged"), **dict.fromkeys(fixed, "beside")}

    @property
    def bypassed(self):
        return {name: one for name, one in {**self.undecided, **self.fixed}.items() if self.modes[name] == "beside"}


@pytest.fixture
def machine(monkeypatch):
    """Work and seconds of a merge and of a run beside, by the name of the target; `asked`: what was measured."""
    numbers = SimpleNamespace(work={}, seconds={}, asked=[])

    def merge_seconds(target, tries):
        numbers.asked.append((target.name, "merge", tries))
        return numbers.seconds[target.name][0]

    def beside_seconds(target, tries, run, family):
        numbers.asked.append((target.name, "beside", tries))
        return numbers.seconds[target.name][1]

    monkeypatch.setattr(apply_mode, "cost_key", lambda target, run, family: (target.name, run.width, family))
    monkeypatch.setattr(apply_mode, "estimated_costs", lambda target, run, family: numbers.work[target.name])
    monkeypatch.setattr(apply_mode, "merge_seconds", merge_seconds)
    monkeypatch.setattr(apply_mode, "bypass_seconds", beside_seconds)
    return numbers


@pytest.mark.parametrize(
    ("work", "tried"),
    [
        ((100, 10), {"beside": ROUGHLY}),  # 4 merges are 4 times the work of 10 runs
        ((99, 10), {"beside": WELL, "merge": WELL}),
        ((10, 15), {"beside": WELL, "merge": WELL}),
        ((10, 16), {"merge": ROUGHLY}),
    ],
)
def test_what_is_far_apart_is_measured_roughly_and_the_better_one_alone(machine, work, tried):
    machine.work["a"], machine.seconds["a"] = work, (1.0, 0.4)
    chooser, plan = ModeSelector(), Plan("a")
    chooser.select(plan, NOW, RUN, "sd1")
    assert machine.asked == [("a", way, tries) for way, tries in tried.items()]
    assert plan.modes["a"] == ("merged" if "merge" in tried else "beside")
    chooser.select(plan, NOW, RUN, "sd1")
    assert len(machine.asked) == len(tried)  # once


def test_anywhere_but_on_the_cpu_both_are_measured_whatever_the_work(machine):
    machine.work["a"], machine.seconds["a"] = (10**9, 1), (0.1, 1.0)
    plan = Plan("a")
    plan.undecided["a"].ref.parameter = lambda: torch.zeros(1, device="meta")
    ModeSelector().select(plan, NOW, RUN, "sd1")
    assert machine.asked == [("a", "beside", WELL), ("a", "merge", WELL)]
    assert plan.modes["a"] == "merged"


@pytest.mark.parametrize(("beside", "way"), [(0.39, "merged"), (0.38, "merged"), (0.37, "beside")])
def test_of_two_as_good_as_even_the_merge_stays(machine, beside, way):
    """Of a whole picture: 4 merges of a second against 10 runs."""
    machine.work["a"], machine.seconds["a"] = (10, 4), (1.0, beside)
    chooser, plan = ModeSelector(), Plan("a")
    assert chooser.select(plan, NOW, RUN, "sd1") == (way == "beside")
    assert plan.modes["a"] == way
    assert not chooser.select(plan, NOW, RUN, "sd1")


def test_the_strength_that_changes_most_often_counts(machine):
    machine.work["a"] = (10, 3)
    for curves, way in (((LATER,), "merged"), ((LATER, RAMP), "beside"), ((RAMP, LATER), "beside")):
        plan = Plan("a")
        plan.undecided["a"] = target("a", *curves)
        ModeSelector().initial_modes(plan, NOW, "sd1")
        assert plan.modes["a"] == way


def test_a_picture_begins_as_the_last_one_of_its_size_went(machine):
    machine.work["a"], machine.seconds["a"] = (10, 3), (1.0, 1.0)  # the work says the one, the clock the other
    chooser, plan = ModeSelector(), Plan("a")
    chooser.initial_modes(plan, NOW, "sd1")
    assert plan.modes["a"] == "beside"
    assert chooser.select(plan, NOW, RUN, "sd1")
    assert plan.modes["a"] == "merged"
    plan.modes["a"] = "beside"
    chooser.initial_modes(plan, NOW, "sd1")
    assert plan.modes["a"] == "merged"
    chooser.initial_modes(plan, NOW, "sd2")  # another kind, of which nothing is known
    assert plan.modes["a"] == "beside"


@pytest.mark.parametrize(
    ("family", "run"),
    [("sd1", LatentShape(2, 64, 64)), ("sdxl", LatentShape(2, 128, 128)), ("sdxl-refiner", LatentShape(2, 128, 128))],
)
def test_the_first_picture_is_taken_for_one_of_usual_size(machine, monkeypatch, family, run):
    seen = []
    monkeypatch.setattr(apply_mode, "estimated_costs", lambda target, run, family: seen.append((run, family)) or (1, 1))
    ModeSelector().initial_modes(Plan("a"), NOW, family)
    assert seen == [(run, family)]


def test_seconds_are_of_what_is_done(machine):
    """One change of all that is merged, one run of all that is beside, also of what must be there."""
    machine.work = {"merged": (1, 10), "merged too": (1, 10), "beside": (100, 10)}
    machine.seconds = {"merged": (1.0, 9.0), "merged too": (2.0, 9.0), "beside": (9.0, 0.25), "must": (9.0, 0.5)}
    chooser, plan = ModeSelector(), Plan("merged", "merged too", "beside", fixed=["must"])
    assert chooser.timings(plan, "sd1") == (0.0, 0.0)
    chooser.select(plan, NOW, RUN, "sd1")
    assert chooser.timings(plan, "sd1") == (3.0, 0.75)
    assert machine.asked[-1] == ("must", "beside", ROUGHLY)
    assert len(machine.asked) == 4
    assert chooser.timings(plan, "sd2") == (0.0, 0.0)
