"""Updates scheduled strengths before each sampling step and re-applies only what changed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from lib_adapters.ops.torch_modes import float32_math
from lib_adapters.patching.apply_mode import ModeSelector
from lib_adapters.patching.cost import LatentShape
from lib_adapters.patching.forward_patcher import ForwardPatcher
from lib_adapters.patching.schedule_plan import SchedulePlan
from lib_adapters.patching.transaction import Transaction
from lib_adapters.patching.weight_patcher import WeightPatcher
from lib_adapters.prompt.schedule import SamplingStep


class PatchController:
    """Turns the dials of one Motion, and has what follows from them done."""

    def __init__(
        self, weight_patcher: WeightPatcher, forward_patcher: ForwardPatcher, mode_selector: ModeSelector
    ) -> None:
        self._weight_patcher, self._forward_patcher, self._mode_selector = (
            weight_patcher,
            forward_patcher,
            mode_selector,
        )
        self._plan = SchedulePlan({}, ())
        self._family = ""
        self._is_mode_selected = True  # False until the size of the picture is known
        self._batch_rows: tuple[int, ...] | None = None
        self._row_offset = 0  # row of the run that comes
        self.rows_unresolved = False  # a run whose rows could not be told apart

    def start(self, plan: SchedulePlan, step: SamplingStep | None, family: str, transaction: Transaction) -> None:
        """Exactly this plan. Without a moment, as far as the last one was."""
        rows = None if step is not None else self._batch_rows
        plan.set_step(step or self._plan.step)
        plan.set_rows(rows)
        plan.set_text_row(self._plan.text_row)
        self._mode_selector.initial_modes(plan, plan.step, family)
        with float32_math():
            plan.precompute(self._weight_patcher.base_of)
            self._apply(plan, transaction)
        transaction.on_rollback(
            partial(self._set_state, self._plan, self._family, self._batch_rows, self._is_mode_selected)
        )
        self._set_state(plan, family, rows, not (plan.undecided or plan.bypassed))
        self._clear_rows()

    def _set_state(self, plan: SchedulePlan, family: str, rows: tuple[int, ...] | None, chosen: bool) -> None:
        self._plan, self._family, self._batch_rows, self._is_mode_selected = plan, family, rows, chosen

    @property
    def is_dynamic(self) -> bool:
        """Does anything depend on the step, the row or the text?"""
        return self._plan.is_dynamic

    @property
    def step(self) -> SamplingStep:
        """The last one that it was told."""
        return self._plan.step

    def set_step(self, step: SamplingStep, rows: Sequence[int] | None) -> bool:
        """Are other modules patched now, or is there something else to tell? Without rows a picture begins."""
        self._batch_rows, self._row_offset = None if rows is None else tuple(rows), 0
        self._plan.set_rows(self._batch_rows)
        found = self.rows_unresolved and rows is None
        if rows is None:
            self._clear_rows()
        return (self._plan.set_step(step) and self._remerge()) or found

    def _clear_rows(self) -> None:
        self.rows_unresolved = False
        self._forward_patcher.start()

    def set_text_row(self, row: int | None) -> bool:
        """Whose text is encoded next; are other modules patched now?"""
        return self._plan.set_text_row(row) and self._remerge()

    def before_forward(self, given: tuple[object, ...]) -> bool:
        """The UNet runs now, with these arguments: they tell the picture's size and how many rows it takes."""
        latent = next((one for one in given if isinstance(one, Tensor) and one.ndim == 4), None)
        if latent is None:
            return False
        before = self.rows_unresolved
        if self._batch_rows is not None:
            self._plan.set_rows(rows := self._take_rows(len(latent)))
            self.rows_unresolved = before or not rows or self._forward_patcher.rows_unresolved
        if self._is_mode_selected:
            return self.rows_unresolved != before
        self._is_mode_selected = True
        run = LatentShape(len(latent), *latent.shape[2:])
        if not self._mode_selector.select(self._plan, self._plan.step, run, self._family):
            return True  # there is something to tell
        self._remerge()
        return True

    def _take_rows(self, count: int) -> tuple[int, ...]:
        """The next rows; a host that runs the same batch again begins anew."""
        assert self._batch_rows is not None
        if self._row_offset + count > len(self._batch_rows):
            self._row_offset = 0
        rows = self._batch_rows[self._row_offset : self._row_offset + count]
        self._row_offset += count
        return rows if len(rows) == count else ()

    def _remerge(self) -> bool:
        with float32_math(), Transaction() as transaction:
            return self._apply(self._plan, transaction)

    def _apply(self, plan: SchedulePlan, transaction: Transaction) -> bool:
        """Return whether other parameters are merged than before. What may run out of memory comes first."""
        exchange = self._forward_patcher.prepare(plan.live())
        found = self._weight_patcher.apply(plan.merged(), transaction)
        exchange(transaction)
        return found

    def restore(self) -> None:
        """The model as it was."""
        self._plan = SchedulePlan({}, ())
        self._weight_patcher.restore()
        self._forward_patcher.restore()

    def mode_of(self, file: str) -> str:
        """How an adapter is followed, in words; `file` is its key."""
        return self._plan.modes_of(file)

    def overflowing_of(self, file: str) -> int:
        """Return the number of parameters not merged, because the result of this file overflows (infinite or NaN)."""
        return self._weight_patcher.overflowing_of(file)

    def schedule_note(self) -> str:
        """How what moves is followed, in one sentence; "" where nothing does."""
        counts = self._plan.counts()
        if not counts or not self._is_mode_selected:  # what is not measured yet is not told of
            return ""
        merge, beside = self._mode_selector.timings(self._plan, self._family)
        taken = {"merged": f" ({merge:.3f} s)" if merge else "", "beside": f" ({beside:.3f} s a run)" if beside else ""}
        parts = [f"{number} {_MODE_TEXTS[way]}{taken.get(way, '')}" for way, number in counts.items()]
        return f"of the weights that change while drawing, {', '.join(parts)}"


_MODE_TEXTS = {"merged": "merged anew at each change", "beside": "beside their layers", "live": "computed in each run"}
