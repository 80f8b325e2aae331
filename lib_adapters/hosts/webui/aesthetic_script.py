"""The accordion in txt2img and img2img. Its settings are those of the tag and give the same image.

Its title, the order of its values and their names in a picture's text are those of the extension that had this before:
what was sent to that, and what its pictures say, means the same here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lib_adapters.hosts.webui import settings, webui_modules
from lib_adapters.hosts.webui.aesthetic_handler import AestheticHandler
from lib_adapters.library.file_names import escape_name
from lib_adapters.prompt.aesthetic_tag import KIND, AestheticOptions, parse
from lib_adapters.prompt.tags import quote_name

TITLE = "Aesthetic embeddings"
EMBEDDING_INDEX = 4  # its place among the values
# in the order of the values
INFOTEXT_FIELDS = ("Aesthetic weight", "Aesthetic steps", "Aesthetic LR", "Aesthetic slerp", "Aesthetic embedding",
          "Aesthetic text", "Aesthetic slerp angle", "Aesthetic text negative")  # fmt: skip


class AestheticScript:
    """What makes a Script of the host ours."""

    aesthetics: AestheticHandler
    visible: Any  # the host's sign for a script that is always there
    elem_id: Callable[[str], str]

    def title(self) -> str:
        return TITLE

    def show(self, _: bool) -> Any:
        return self.visible

    def ui(self, _: bool) -> list[Any]:
        """Also called outside the page, to learn the values' defaults."""
        components = _components(self.aesthetics, self.elem_id)
        fields: list[tuple[Any, Any]] = list(zip(components, INFOTEXT_FIELDS, strict=True))
        fields[EMBEDDING_INDEX] = (components[EMBEDDING_INDEX], _pasted)
        self.infotext_fields = fields
        self.paste_field_names = list(INFOTEXT_FIELDS)
        return components

    def process(self, p: Any, *values: Any) -> None:
        parameters = getattr(p, "extra_generation_params", {})
        for key in INFOTEXT_FIELDS:
            parameters.pop(key, None)
        tag = _tag(values)
        self.aesthetics.set_script_tag(p, tag)
        if tag and not all(parse(prompt).tags for prompt in getattr(p, "all_prompts", None) or [""]):
            parameters.update(zip(INFOTEXT_FIELDS, values, strict=True))

    def postprocess_batch(self, p: Any, *_: Any, **__: Any) -> None:
        self.aesthetics.repeat_cached_messages(p)


def create_script_class(scripts: Any, aesthetics: AestheticHandler) -> type:
    """The class that the host looks for in the file it executes."""
    content = {"aesthetics": aesthetics, "visible": scripts.AlwaysVisible}
    return type("AestheticEmbeddings", (AestheticScript, scripts.Script), content)


def _tag(values: Sequence[Any]) -> str:
    """As it would stand in the prompt, and read by the same grammar; "" where nothing is chosen."""
    if len(values) != len(INFOTEXT_FIELDS) or values[EMBEDDING_INDEX] in (None, "", settings.NONE_CHOICE):
        return ""
    weight, steps, lr, slerp, name, text, angle, negative = values
    numbers = [_number(weight), f"steps={_number(steps)}", f"lr={_number(lr)}", f"angle={_number(angle)}"]
    items = [quote_name(escape_name(str(name))), *numbers, *(["slerp"] if slerp else [])]
    if str(text or "").strip():
        items += ['text="' + str(text).strip().replace('"', '""') + '"', *(["negative"] if negative else [])]
    return f"<{KIND}:{':'.join(items)}>"


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).strip()


def _pasted(parameters: dict[str, Any]) -> str:
    """A picture that says nothing of it was made without."""
    return str(parameters.get(INFOTEXT_FIELDS[EMBEDDING_INDEX], settings.NONE_CHOICE))


def _components(aesthetics: AestheticHandler, elem_id: Callable[[str], str]) -> list[Any]:
    import gradio as gr

    def choices() -> dict[str, Any]:
        return {"choices": [settings.NONE_CHOICE, *embedding_names(aesthetics)]}

    usual = AestheticOptions()
    with gr.Accordion("Aesthetic gradients", open=False, elem_id=elem_id("aesthetic")):
        with gr.Row():
            name = gr.Dropdown(
                **choices(), value=settings.NONE_CHOICE, label="Embedding", allow_custom_value=True,
                elem_id=elem_id("aesthetic_embedding"),
            )  # fmt: skip
            _refresh_button(name, aesthetics, choices, elem_id("aesthetic_refresh"))
            weight = gr.Slider(0, 1, usual.weight, step=0.01, label="Weight", elem_id=elem_id("aesthetic_weight"))
            steps = gr.Slider(0, 50, usual.steps, step=1, label="Steps", elem_id=elem_id("aesthetic_steps"))
        with gr.Row():
            lr = gr.Textbox("0.0001", label="Learning rate", elem_id=elem_id("aesthetic_lr"))
            slerp = gr.Checkbox(usual.slerp, label="Mix along the arc (slerp)", elem_id=elem_id("aesthetic_slerp"))
        with gr.Row():
            text = gr.Textbox(usual.text, label="Turn it towards this text", elem_id=elem_id("aesthetic_text"))
            angle = gr.Slider(0, 1, usual.angle, step=0.01, label="How far", elem_id=elem_id("aesthetic_angle"))
            away = gr.Checkbox(usual.negative, label="Away from it", elem_id=elem_id("aesthetic_negative"))
    return [weight, steps, lr, slerp, name, text, angle, away]


def embedding_names(aesthetics: AestheticHandler) -> list[str]:
    found = (aesthetics.resolver.shortest_name(path).removesuffix(path.suffix) for path in aesthetics.resolver.files())
    return sorted(found, key=str.casefold)


def _refresh_button(
    name: Any, aesthetics: AestheticHandler, choices: Callable[[], dict[str, Any]], elem_id: str
) -> None:
    make = getattr(webui_modules.import_optional("ui_common"), "create_refresh_button", None)
    if make is not None:
        make(name, aesthetics.resolver.rescan, choices, elem_id)
