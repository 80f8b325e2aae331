"""Dates on which trainers changed their rules, as seconds since 1970 (UTC).

Metadata of a file holds the time at which its training started (`TrainingInfo.trained_at`; 0 if unknown); compared with
these dates, it selects the rule that the file was trained with. Sources: the releases of lycoris-lora on PyPI and the
history of kohya-ss/sd-scripts. `tests/unit/algorithms/test_trainer_dates.py` checks the rules before and after each
date.
"""

from __future__ import annotations

from datetime import datetime, timezone


def _date(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp()


LYCORIS_2 = _date("2023-10-13")
LYCORIS_3 = _date("2024-05-25")
LYCORIS_4 = _date("2026-09-01")

GLORA_SCALE_SQUARED_SINCE = _date("2023-07-31")  # the old convention's forward multiplies by the scale twice
GLORA_NEW_NAMES_SINCE = LYCORIS_3  # the square factors have each other's names
GLORA_BYPASS_FIXED = LYCORIS_4  # before, 3.x scaled twice in bypass mode
LOHA_TWO_CORES_SINCE = LYCORIS_2  # before, the forward pass used hada_t1 for both halves
LOKR_BYPASS_UNSCALED_SINCE = LYCORIS_3  # bypass mode drops the scale of every layer; 2.x only of layers with a kernel
LOKR_BYPASS_FIXED = LYCORIS_4  # bypass mode applies every scale
IA3_KEEPS_BIAS_SINCE = _date("2024-06-01")  # LyCORIS 3.x; before, it scaled the layer's output with its bias
DORA_MEAN = (_date("2024-02-18"), _date("2024-03-16"))  # LyCORIS used the mean of V as its norm
RS_LORA_NOMINAL_ALPHA = (_date("2024-04-05"), _date("2024-07-09"))  # LyCORIS stored the nominal alpha of rs-LoRA
KOHYA_OFT_KEEPS_BIAS_SINCE = _date("2024-09-13")  # before, kohya rotated the layer's output with its bias
DYLORA_BLOCK_SIZE_FOUR_SINCE = _date("2024-05-01")  # LyCORIS; the default was 1
