"""Layout of the stand-alone page, in gradio."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from lib_adapters.app.errors import describe_error
from lib_adapters.app.page import create_panel
from lib_adapters.app.page.image_worker import ImageWorker, WorkerResult
from lib_adapters.hosts.diffusers.generator import Settings, resolve_seed

FONTS = ["ui-sans-serif", "system-ui", "sans-serif"]
MONO = ["ui-monospace", "Consolas", "monospace"]
PROMPTS, NEGATIVES, GALLERY = ["#page_prompt textarea"], ["#page_neg_prompt textarea"], "#page_gallery"
MAX_SEED = 2**32 - 1
NEGATIVE_TAGS_LABEL = "Tags in the negative prompt act on its side"


@dataclass(frozen=True)
class Defaults:
    """What the page starts with."""

    prompt: str
    settings: Settings
    size: tuple[int, int]  # the model's own


def build_page(
    painter: ImageWorker, maker: create_panel.EmbeddingWorker, defaults: Defaults, shell: str, files: Sequence[str]
) -> gr.Blocks:
    """`files`: addresses of the tab's scripts and its style sheet."""
    theme = gr.themes.Default(font=FONTS, font_mono=MONO)  # gradio's own would be fetched from elsewhere
    with gr.Blocks(title="LyCORIS", theme=theme, analytics_enabled=False) as page:
        with gr.Row():
            with gr.Column(scale=4):
                prompt = gr.Textbox(defaults.prompt, label="Prompt", lines=2, elem_id="page_prompt")
                negative = gr.Textbox("", label="Negative prompt", lines=1, elem_id="page_neg_prompt")
            with gr.Column(scale=1, min_width=180):
                button = gr.Button("Generate", variant="primary", elem_id="page_generate")
                stop = gr.Button("Stop", elem_id="page_stop")
                compare = gr.Checkbox(False, label="Compare: without, with", elem_id="page_compare")
                against = gr.Checkbox(False, label=NEGATIVE_TAGS_LABEL, elem_id="page_negative_tags")
        with gr.Row():
            with gr.Column(scale=3):
                gr.HTML(shell)
            with gr.Column(scale=2, min_width=320):
                gallery = gr.Gallery(
                    label="Pictures", elem_id="page_gallery", columns=2, height=360, object_fit="contain"
                )
                report = gr.HTML(elem_id="page_report")
                settings = _settings(defaults)
                create_panel.create_panel(maker)
        said = gr.State("")  # not the report itself, which would show the progress a second time
        inputs, generate = [prompt, negative, compare, against, *settings], _generate(painter)
        for event in (button.click, prompt.submit, negative.submit):
            drawn = event(generate, inputs, [gallery, said], api_name=False)
            drawn.then(lambda text: text, said, report, show_progress="hidden", api_name=False)
        stop.click(painter.stop, None, None, queue=False, api_name=False)
        page.load(None, None, None, _js=_loading(files))
    return page.queue()


def _settings(defaults: Defaults) -> list[Any]:
    """In the order in which `_generate` takes them."""
    width, height = defaults.size
    with gr.Row():
        steps = gr.Slider(1, 100, defaults.settings.steps, step=1, label="Steps", elem_id="page_steps")
        guidance = gr.Slider(1, 20, defaults.settings.guidance, step=0.5, label="Guidance", elem_id="page_guidance")
    with gr.Row():
        wide = gr.Slider(8, max(1024, 2 * width), width, step=8, label="Width", elem_id="page_width")
        high = gr.Slider(8, max(1024, 2 * height), height, step=8, label="Height", elem_id="page_height")
    seed = gr.Number(1, label="Seed (-1: a new one each time)", precision=0, elem_id="page_seed")
    return [steps, guidance, wide, high, seed]


def _generate(painter: ImageWorker) -> Callable[..., tuple[list[tuple[Any, str]], str]]:
    def generate(  # noqa: PLR0913, PLR0917 - gradio hands over one value for each component
        prompt: str,
        negative: str,
        compare: bool,
        against: bool,
        steps: float,
        guidance: float,
        width: float,
        height: float,
        seed: float | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how gradio is asked for one
    ) -> tuple[list[tuple[Any, str]], str]:
        chosen = min(resolve_seed(int(-1 if seed is None else seed)), MAX_SEED)
        settings = Settings(negative, int(steps), chosen, float(guidance), (int(width), int(height)), against)

        def reached(done: int, total: int) -> None:
            progress((done, total), desc="Drawing", unit="steps")

        try:
            shown = painter.generate(prompt, settings, compare, reached)
        except Exception as error:  # noqa: BLE001 - the page says it and goes on
            shown = WorkerResult(problems=[describe_error(error)[0]])
        return shown.pictures, report_of(shown, f"Seed {chosen}")

    return generate


def report_of(shown: WorkerResult, heading: str) -> str:
    """What the page says under the picture, problems first."""
    problems = [f'<li class="lycoris-problem"><strong>{html.escape(line)}</strong></li>' for line in shown.problems]
    lines = [f"<li>{html.escape(line)}</li>" for line in shown.lines]
    return f"<p>{html.escape(heading)}</p><ul>{''.join(problems + lines)}</ul>"


def _loading(files: Sequence[str]) -> str:
    """This release of gradio has no place for scripts in its head, so the page adds them itself."""
    return f"""() => {{
        for (const file of {json.dumps(list(files))}) {{
            const style = file.includes(".css");
            const node = document.createElement(style ? "link" : "script");
            if (style) Object.assign(node, {{ rel: "stylesheet", href: file }});
            else Object.assign(node, {{ src: file, async: false }});
            document.head.append(node);
        }}
        return [];
    }}"""
