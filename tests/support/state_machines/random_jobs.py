"""Jobs as users start them: drawn by hypothesis, run on any double, and what is left behind by one."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import strategies as st
from torch import Tensor

from tests.fake_webui.processing import Drawing
from tests.fake_webui.sd_models import FIRST, Info
from tests.fake_webui.webui import WebUI
from tests.support.tiny_model_pair import Weights, differing

OTHER, ELSE = Info("other", seed=11), Info("else", config="v2", seed=12)
INFOS = (FIRST, OTHER, ELSE)
TAGS = (
    "<lyco:a:0.8>",
    "<lyco:b:1:te=0.5>",
    "<lora:c:-0.5>",
    "<lyco:d:1:unet=0@0,1@1>",
    "<lyco:e:0.7:lbw=OUT01>",
    "<lyco:f:1:stop=1>",
    "<lyco:g:1:dyn=timestep>",
    "<lyco:g:0.6>",
    "<lyco:h:0.6:mode=live>",
    "<lora:i:1:1@0,0@1:mode=merged:hr=0.2>",
    "<lyco:a:1:dyn=1:hrlbw=IN01:0.5>",
    "<lyco:c:0.4:1@0,0@1:mode=live>",
    "<lyco:e:0.5:off>",
    "<lyco:nobody:1>",
    "<hypernet:glow:0.7>",
    "<aesthetic:glow:0.8:steps=2:lr=0.001>",
    "<lora:theirs:1>",
)


@dataclass(frozen=True)
class Work:
    prompts: tuple[str, ...]  # of one batch
    negative: str = "5"
    sampler: str = "Euler"
    batches: int = 1
    hires: str | None = None  # the second pass's prompt; "" for the first one's
    refiner: Info | None = None
    lowvram: bool = False
    interrupted: int | None = None  # behind this step
    raising: int | None = None  # in this run of the UNet
    nested: str | None = None  # what a script draws after each batch

    def run(self, host: WebUI) -> list[Tensor]:
        """The pictures; none if it raised."""
        options = {"sampler_name": self.sampler, "n_iter": self.batches, "batch_size": len(self.prompts)}
        options |= {"enable_hr": self.hires is not None, "hr_prompt": self.hires or "", "lowvram": self.lowvram}
        options |= {"refiner_checkpoint_info": self.refiner, "refiner_switch_at": self.refiner and 0.3}
        prompt = self.prompts[0] if len(self.prompts) == 1 else list(self.prompts) * self.batches
        job = (Drawing if self.nested is None else Outer)(host, prompt, self.negative, inner=self.nested, **options)
        host.interrupt_after = self.interrupted
        if self.raising is None:
            return job.run().images
        handle = host.model.unet.middle_block.register_forward_pre_hook(_raiser(self.raising))
        try:
            return job.run().images
        except Failure:
            return []
        finally:
            handle.remove()


class Failure(Exception):
    pass


def _raiser(at: int):
    runs = iter(range(99))

    def raises(*_):
        if next(runs) == at:
            raise Failure

    return raises


class Outer(Drawing):
    """With a script that draws another picture after each batch, inside the same job of the host."""

    def sample(self):
        found = super().sample()
        with pytest.MonkeyPatch.context() as patch:
            for name in ("begin", "end"):
                patch.setattr(self.host.shared.state, name, lambda *_: None, raising=False)
            self.images += Drawing(self.host, self.inner, self.negative_prompt).run().images
        return found


@dataclass(frozen=True)
class Left:
    """What a job gave and left behind: its pictures, and the weights that are not the checkpoint's own."""

    images: list[Tensor]
    info: Info
    changed: dict[str, Tensor]


def done(host: WebUI, work: Work, own: dict[Info, Weights]) -> Left:
    images = work.run(host)
    host.interrupt_after = None
    info = host.sd_models.model_data.sd_model.sd_checkpoint_info
    changed = differing(host.sd_models.model_data.sd_model, own[info])
    return Left(images, info, {name: tensor.clone() for name, tensor in changed.items()})


def prompt(words: str):
    tags = st.lists(st.sampled_from(TAGS), max_size=2)
    return tags.map(lambda chosen: " ".join([words, *chosen]))


one = st.one_of(prompt("3"), prompt("3"), st.tuples(prompt("3"), prompt("4")).map(" AND ".join))
works = st.builds(
    Work,
    prompts=st.one_of(st.tuples(one), st.tuples(one), st.tuples(one, one)),
    negative=st.sampled_from(("5", "5", "5 <lyco:a:0.5>")),
    sampler=st.sampled_from(("Euler", "Euler", "Heun", "DDIM")),
    batches=st.sampled_from((1, 1, 2)),
    hires=st.one_of(st.none(), st.none(), st.just(""), prompt("6")),
    refiner=st.sampled_from((None, None, None, OTHER, ELSE)),
    lowvram=st.booleans(),
)
broken = st.builds(
    Work,
    prompts=st.tuples(one),
    batches=st.sampled_from((1, 2)),
    hires=st.sampled_from((None, "")),
    interrupted=st.sampled_from((None, 0, 1)),
    raising=st.sampled_from((None, 0, 1, 2, 4)),
    nested=st.one_of(st.none(), prompt("7")),
)
