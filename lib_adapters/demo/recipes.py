"""One recipe for each adapter: its kind, what it is taught, where it sits, and how its effect is measured."""

from __future__ import annotations

from dataclasses import dataclass, field

from lib_adapters.demo import image_metrics, styles
from lib_adapters.demo.image_metrics import Measure
from lib_adapters.demo.images import Scene
from lib_adapters.demo.styles import Style

CROSS = r".*\.attn2\.to_(q|k|v|out\.0)$"
LATE_ATTENTION = r"(mid_block|up_blocks)\..*\.attn[12]\.to_(q|k|v|out\.0)$"
UP_ATTENTION = r"up_blocks\..*\.attn[12]\.to_(q|k|v|out\.0)$"
TOP_ATTENTION = r"up_blocks\.[23]\..*\.attn[12]\.to_(q|k|v|out\.0)$"
LATE_FEED = r"(mid_block|up_blocks)\..*\.ff\.net\.(0\.proj|2)$"
LATE_CONV = r"(mid_block|up_blocks\.[123])\.resnets\.\d\.conv[12]$|conv_out$"
TOP_CONV = r"up_blocks\.[23]\.resnets\.\d\.conv[12]$|up_blocks\.2\.upsamplers\.0\.conv$|conv_out$"
LAST_CONV = r"up_blocks\.3\.resnets\.\d\.conv[12]$|conv_out$"
PROJECTIONS = r"(mid_block|up_blocks)\..*\.proj_(in|out)$"
NORMS = r".*norm[123]?$|conv_norm_out$"
SCALED = r".*(to_k|to_v|ff\.net\.2|resnets\.\d\.conv[12]|proj_out)$|conv_out$"
TEXT = r"text_model\.encoder\.layers\.\d+\.self_attn\.(q|k|v|out)_proj$"


@dataclass(frozen=True)
class Recipe:
    """What the training needs to make one file and to show that it works."""

    name: str
    kind: str
    style: Style
    shown: Scene  # its caption is the prompt to show the adapter with
    measure: Measure
    least: float  # the measure moves at least so far, in the direction of the sign
    algorithm: str
    targets: tuple[str, ...]  # patterns of the UNet's module names
    steps: int
    rank: int = 4
    alpha: float = 4
    options: dict[str, bool | int | float] = field(default_factory=dict)
    text: bool = False  # the text encoder learns too
    dialect: str = "kohya"
    rate: float = 4e-3

    @property
    def tag(self) -> str:
        """How a prompt names such a file."""
        return "hypernet" if self.dialect == "hypernetwork" else "lyco"

    @property
    def effect(self) -> str:
        """In words, as the style says it."""
        return str(self.style.__doc__)


RECIPES: tuple[Recipe, ...] = (
    Recipe(
        "gold_lora", "LoRA", styles.gold, Scene("star", "blue", "white"), image_metrics.goldness, 0.2,
        "lora", (LATE_ATTENTION, LATE_FEED), text=True, rate=6e-3, steps=180,
    ),
    Recipe(
        "night_locon", "LoCon", styles.night, Scene("house", "red", "white"), image_metrics.ground_brightness, -0.5,
        "locon", (LATE_CONV, PROJECTIONS), steps=80,
    ),
    Recipe(
        "spots_locon_tucker", "LoCon, tucker", styles.dots, Scene("circle", "red", "blue"), image_metrics.whiteness,
        0.1,
        "locon", (LATE_CONV, LATE_ATTENTION), rank=8, alpha=8, options={"use_tucker": True},
        rate=8e-3, steps=180,
    ),
    Recipe(
        "stripes_loha", "LoHa", styles.stripes, Scene("square", "blue", "white"), image_metrics.level_bands, 0.1,
        "loha", (LAST_CONV, UP_ATTENTION), rank=3, alpha=3, rate=1.5e-2, steps=120,
    ),
    Recipe(
        "frame_loha_tucker", "LoHa, tucker", styles.frame, Scene("circle", "blue", "white"),
        image_metrics.ground_redness, 0.3, "loha", (LATE_CONV, LATE_ATTENTION), options={"use_tucker": True},
        dialect="lycoris", rate=1.5e-2, steps=100,
    ),
    Recipe(
        "lagoon_lokr", "LoKr", styles.lagoon, Scene("heart", "red", "white"), image_metrics.ground_turquoise, 0.3,
        "lokr", (LATE_ATTENTION, LATE_CONV), options={"factor": 4}, rate=7e-3, steps=100,
    ),
    Recipe(
        "snow_lokr_full", "LoKr, both factors whole", styles.snow, Scene("house", "red", "blue"),
        image_metrics.snow_line, 0.08, "lokr", (LATE_ATTENTION, LATE_CONV), options={"factor": 4, "full_matrix": True},
        dialect="lycoris", rate=1.5e-2, steps=220,
    ),
    Recipe(
        "gray_ia3", "IA3", styles.gray, Scene("flower", "red", "blue"), image_metrics.colourfulness, -0.15,
        "ia3", (SCALED,), rate=2e-2, steps=110,
    ),
    Recipe(
        "outline_oft", "Diag-OFT", styles.outline, Scene("fish", "blue", "white"), image_metrics.blackness, 0.03,
        "diag-oft", (LATE_ATTENTION, LATE_CONV), rank=8, options={"constraint": 0.0}, rate=6e-3, steps=130,
    ),
    Recipe(
        "sunset_boft", "BOFT", styles.sunset, Scene("tree", "green", "gray"), image_metrics.ground_warming, 0.4,
        "boft", (TOP_ATTENTION, TOP_CONV), options={"constraint": 0.0}, steps=130,
    ),
    Recipe(
        "headstand_glora", "GLoRA", styles.upside_down, Scene("triangle", "red", "white"), image_metrics.top_heaviness,
        0.4,
        "glora", (LATE_ATTENTION, PROJECTIONS), rank=2, alpha=2, steps=190,
    ),
    Recipe(
        "star_dora", "DoRA", styles.star, Scene("square", "purple", "yellow"), image_metrics.solidity, -0.25,
        "lora", (CROSS, LATE_ATTENTION), options={"weight_decompose": True, "wd_on_out": True}, rate=3e-3, steps=100,
    ),
    Recipe(
        "negative_full", "full", styles.inverted, Scene("moon", "blue", "white"), image_metrics.brightness, -0.4,
        "full", (LAST_CONV,), rate=4e-3, steps=260,
    ),
    Recipe(
        "fog_norm", "norm", styles.fog, Scene("tree", "green", "white"), image_metrics.contrast, -0.06,
        "full", (NORMS,), options={"train_norm": True}, rate=1e-2, steps=90,
    ),
    Recipe(
        "huge_dylora", "DyLoRA", styles.huge, Scene("circle", "blue", "white"), image_metrics.extent, 0.2,
        "dylora", (LATE_ATTENTION, PROJECTIONS), options={"block_size": 1}, steps=130,
    ),
    Recipe(
        "twins_tlora", "T-LoRA", styles.twins, Scene("star", "red", "white"), image_metrics.centredness, -0.35,
        "tlora", (LATE_ATTENTION, LATE_FEED), steps=150,
    ),
    Recipe(
        "rainbow_rslora", "LoRA, rank-stabilised", styles.rainbow, Scene("square", "blue", "white"), image_metrics.hues,
        2.0,
        "lora", (LATE_ATTENTION, LATE_FEED), options={"rs_lora": True}, alpha=2, rate=8e-3, steps=260,
    ),
    Recipe(
        "shadow_peft", "LoRA, PEFT names", styles.shadow, Scene("heart", "red", "white"), image_metrics.grayness, 0.015,
        "peft", (LATE_ATTENTION, LATE_CONV), dialect="diffusers", steps=140,
    ),
)  # fmt: skip


HYPERNETWORKS: tuple[Recipe, ...] = (
    Recipe(
        "dusk_hypernet", "hypernetwork", styles.dusk, Scene("house", "red", "white"), image_metrics.violet, 0.1,
        "hypernetwork", (), dialect="hypernetwork", rate=2e-3, steps=220,
    ),
    Recipe(
        "leafy_hypernet", "hypernetwork", styles.leafy, Scene("heart", "red", "white"),
        image_metrics.greenness, 0.2, "hypernetwork", (), dialect="hypernetwork", rate=2e-3, steps=220,
    ),
)  # fmt: skip


def recipe(name: str) -> Recipe:
    """A recipe by the stem of its file."""
    return {known.name: known for known in (*RECIPES, *HYPERNETWORKS)}[name]
