"""What one call of the host is worked out to: the adapters that are wanted, and what the user must know about them."""

from __future__ import annotations

from dataclasses import dataclass, field

from lib_adapters.prompt.tags import Tag
from lib_adapters.session import Report, Request

BATCH = (
    "The pictures of one batch name different adapters, but the web UI reads only the first prompt's tags: "
    "all of them got those. Raise the batch count instead of the batch size."
)
BYPASSED = "An SD Unet option is active: it runs instead of the model's own UNet, so only the text encoder is changed."
BYPASSED_WHOLLY = "An SD Unet option is active: it runs instead of the model's own UNet, so hypernetworks do nothing."
NOBODY = "None stands for no adapter, so this tag changes nothing."


@dataclass
class Round:
    """One working out, of a prompt's tags and of what the settings add to them."""

    requests: list[Request] = field(default_factory=list)
    tags: list[Tag] = field(default_factory=list)  # those that `requests` came from, in the same order
    defaults: list[Tag] = field(default_factory=list)  # what the settings add to what the prompt names
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def state(now: Round, report: Report) -> str:
    """Files by content, default adapters, and what failed: the rest is in the tags."""
    failed = [f"without {one.name}" for one in report.adapters if one.error]
    return " ".join(sorted(str(request.key) for request in now.requests) + failed)
