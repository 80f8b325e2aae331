"""The tab "Aesthetic embedding": a folder of pictures becomes a file in models/aesthetic_embeddings."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lib_adapters.errors import AdapterError, BrokenModel
from lib_adapters.hosts.pipeline.creating import BATCH, MOST_AT_ONCE, Asked, create, file_of, folder_of
from lib_adapters.hosts.pipeline.vision import read_json
from lib_adapters.hosts.webui import host, settings
from lib_adapters.hosts.webui.projections import CLIP_L, usual_folders

TITLE, ID = "Aesthetic embedding", "lycoris_create"
CLIP_HINT = f'empty: what the settings name, "{settings.CLIP_FOLDER}", or models/CLIP'
# the host's bar, under a number that the host knows the job by; it stands above the place that it is told
_BEGIN = f"""(...given) => {{
    const task = randomId(), place = gradioApp().getElementById("{ID}_result");
    Object.assign(place.parentNode.style, {{ position: "relative", marginTop: "24px", paddingTop: "6px" }});
    requestProgress(task, place, null, () => {{}});
    return [task, ...given.slice(1)];
}}"""
_REFRESH = "() => { gradioApp().querySelector('.lycoris-tab [data-part=refresh]')?.click(); return []; }"


def tab(created: Callable[[], None]) -> list[tuple[Any, str, str]]:
    """As the host takes tabs; `created` is called when there is a new file."""
    import gradio as gr

    queue, shared = host.module("call_queue"), host.module("shared")
    with gr.Blocks(analytics_enabled=False) as page:
        task = gr.Textbox("", visible=False, elem_id=f"{ID}_task")
        with gr.Row():
            name = gr.Textbox("", label="Name", max_lines=1, elem_id=f"{ID}_name")
            batch = gr.Slider(1, MOST_AT_ONCE, BATCH, step=1, label="Pictures at once", elem_id=f"{ID}_batch")
        pictures = gr.Textbox("", label="Folder of pictures", max_lines=1, elem_id=f"{ID}_pictures")
        clip = gr.Textbox(
            "", label="CLIP folder, with its image side", placeholder=CLIP_HINT, max_lines=1, elem_id=f"{ID}_clip"
        )
        with gr.Row():
            button = gr.Button("Create", variant="primary", elem_id=f"{ID}_button")
            interrupt = gr.Button("Interrupt", elem_id=f"{ID}_interrupt")
        with gr.Column(elem_id=f"{ID}_results"):
            result = gr.HTML("", elem_id=f"{ID}_result")
        done = button.click(
            queue.wrap_gradio_gpu_call(partial(_pressed, created), extra_outputs=[]),
            [task, name, pictures, clip, batch], [result], _js=_BEGIN, show_progress=False,
        )  # fmt: skip
        done.then(None, None, None, _js=_REFRESH)
        interrupt.click(lambda: shared.state.interrupt(), None, None, queue=False)
    return [(page, TITLE, ID)]


def _pressed(created: Callable[[], None], _: str, name: str, pictures: str, clip: str, batch: float) -> list[str]:
    state = host.module("shared").state

    def reached(done: int, total: int) -> None:
        state.job_count, state.job_no = total, done
        state.textinfo = f"{done} of {total} pictures"

    try:
        out = file_of(name, settings.aesthetic_folders()[0])
        folder = folder_of(pictures, "the folder of pictures")
        state.textinfo = "Loading CLIP"
        asked = Asked.of(folder, clip_folder(clip), out, int(batch), _device())
        made = create(asked, reached, lambda: bool(state.interrupted))
    except AdapterError as error:
        return [_html([str(error)])]
    except torch.cuda.OutOfMemoryError:
        return [_html(["There is not enough GPU memory: take fewer pictures at once."])]
    except OSError as error:
        return [_html([f"{error.filename or TITLE}: {error.strerror or error}."])]
    finally:
        state.textinfo = None
    created()
    return [_html([made.line(), *made.problems()])]


def clip_folder(typed: str) -> Path:
    """BrokenModel where none was named and none lies where they usually do."""
    if typed.strip():
        return folder_of(typed, "the CLIP folder")
    if (named := settings.clip_folder()) is not None:
        return named
    found = next((folder for folder in usual_folders() if _has_images(folder)), None)
    if found is None:
        raise BrokenModel(
            "A CLIP model with its image encoder is needed and is not downloaded automatically. Put the files "
            f"model.safetensors, config.json and preprocessor_config.json of {CLIP_L} (on Hugging Face) into "
            f"{settings.usual_clip_folder()}, or enter the folder that has them."
        )
    return found


def _has_images(folder: Path) -> bool:
    """The host's own use of Hugging Face's cache leaves the settings there without the weights."""
    try:
        weights = any(any(folder.glob(pattern)) for pattern in ("*.safetensors", "pytorch_model*.bin"))
        return weights and "vision_config" in read_json(folder / "config.json")
    except (AdapterError, OSError):
        return False


def _device() -> torch.device:
    found = getattr(host.optional("devices"), "device", None)
    return found if isinstance(found, torch.device) else torch.device("cpu")


def _html(lines: Sequence[str]) -> str:
    return "".join(f"<p>{html.escape(line)}</p>" for line in lines)
