"""From prompts to conditionings, as the host goes: equal texts once, parts joined by AND, `[before:after:step]`."""

from __future__ import annotations

import re
from types import SimpleNamespace

import torch

from tests.fake_webui.sd_hijack_clip import SdConditioning

_EDIT = re.compile(r"\[(?:([^:\[\]]*):)?([^:\[\]]*):(\d+)\]")
_AND = re.compile(r"\bAND\b")
_WEIGHT = re.compile(r"^((?:\s|.)*?)(?:\s*:\s*([-+]?(?:\d+\.?|\d*\.\d+)))?\s*$")


def _timeline(prompt, steps):
    """[(last step, text)]"""
    ends = sorted({steps, *(min(steps, int(m[3])) for m in _EDIT.finditer(prompt) if int(m[3]) >= 1)})
    return [(end, _EDIT.sub(lambda m, at=end: (m[1] or "") if at <= int(m[3]) else m[2], prompt)) for end in ends]


def get_learned_conditioning(model, prompts, steps, hires_steps=None, use_old_scheduling=False):
    made: dict = {}
    for prompt in prompts:
        if prompt not in made:
            line = _timeline(prompt, hires_steps or steps)
            conds = model.get_learned_conditioning(SdConditioning([text for _, text in line], copy_from=prompts))
            made[prompt] = [(end, cond) for (end, _), cond in zip(line, conds, strict=True)]
    return [made[prompt] for prompt in prompts]


def get_multicond_learned_conditioning(model, prompts, steps, hires_steps=None, use_old_scheduling=False):
    texts: list = []
    batch = []
    for prompt in prompts:
        matches = [_WEIGHT.search(part) for part in _AND.split(prompt)]
        batch.append([(match[1], float(match[2] or 1.0)) for match in matches])
        texts += [text for text, _ in batch[-1] if text not in texts]
    lines = get_learned_conditioning(model, SdConditioning(texts, copy_from=prompts), steps, hires_steps)
    found = dict(zip(texts, lines, strict=True))
    parts = [[SimpleNamespace(schedules=found[text], weight=weight) for text, weight in one] for one in batch]
    return SimpleNamespace(batch=parts, shape=(len(prompts),))


def _at(line, step):
    return next((cond for end, cond in line if step <= end), line[0][1])


def reconstruct_cond_batch(c, current_step):
    return torch.stack([_at(line, current_step) for line in c])


def reconstruct_multicond_batch(c, current_step):
    """([(row, weight)] for each picture, all rows)"""
    conds_list: list = []
    rows: list = []
    for parts in c.batch:
        conds_list.append([(len(rows) + n, part.weight) for n, part in enumerate(parts)])
        rows += [_at(part.schedules, current_step) for part in parts]
    return conds_list, torch.stack(lengthened(rows))


def lengthened(rows):
    """Shorter texts repeat their last vector."""
    longest = max(len(row) for row in rows)
    return [torch.vstack([row, row[-1:].repeat(longest - len(row), 1)]) for row in rows]
