"""The tab "Aesthetic embedding": creates a file in models/aesthetic_embeddings from a folder of images."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lib_adapters.errors import AdapterError, InvalidModelFolder
from lib_adapters.hosts.diffusers.clip_vision import read_json
from lib_adapters.hosts.diffusers.create_embedding import (
    DEFAULT_BATCH_SIZE,
    MAX_BATCH_SIZE,
    EmbeddingJob,
    create_embedding,
    embedding_path,
    parse_folder,
)
from lib_adapters.hosts.webui import settings, webui_modules
from lib_adapters.hosts.webui.clip_projection import CLIP_L, clip_search_folders

TITLE, ID = "Aesthetic embedding", "lycoris_create"
CLIP_HINT = f'empty: what the settings name, "{settings.CLIP_FOLDER_LABEL}", or models/CLIP'
# the host's bar, under a number that the host knows the job by; it stands above the place that it is told
_BEGIN = f"""(...given) => {{
    const task = randomId(), place = gradioApp().getElementById("{ID}_result");
    Object.assign(place.parentNode.style, {{ position: "relative", marginTop: "24px", paddingTop: "6px" }});
    requestProgress(task, place, null, () => {{}});
    return [task, ...given.slice(1)];
}}"""
_REFRESH = "() => { gradioApp().querySelector('.lycoris-tab [data-part=refresh]')?.click(); return []; }"


def build_tab(on_created: Callable[[], None]) -> list[tuple[Any, str, str]]:
    """As the host takes tabs; `created` is called when there is a new file."""
    import gradio as gr

    queue, shared = webui_modules.import_module("call_queue"), webui_modules.import_module("shared")
    with gr.Blocks(analytics_enabled=False) as page:
        task = gr.Textbox("", visible=False, elem_id=f"{ID}_task")
        with gr.Row():
            name = gr.Textbox("", label="Name", max_lines=1, elem_id=f"{ID}_name")
            batch = gr.Slider(
                1, MAX_BATCH_SIZE, DEFAULT_BATCH_SIZE, step=1, label="Pictures at once", elem_id=f"{ID}_batch"
            )
        images = gr.Textbox("", label="Folder of pictures", max_lines=1, elem_id=f"{ID}_pictures")
        clip = gr.Textbox(
            "", label="CLIP folder, with its image side", placeholder=CLIP_HINT, max_lines=1, elem_id=f"{ID}_clip"
        )
        with gr.Row():
            button = gr.Button("Create", variant="primary", elem_id=f"{ID}_button")
            interrupt = gr.Button("Interrupt", elem_id=f"{ID}_interrupt")
        with gr.Column(elem_id=f"{ID}_results"):
            result = gr.HTML("", elem_id=f"{ID}_result")
        done = button.click(
            queue.wrap_gradio_gpu_call(partial(_pressed, on_created), extra_outputs=[]),
            [task, name, images, clip, batch], [result], _js=_BEGIN, show_progress=False,
        )  # fmt: skip
        done.then(None, None, None, _js=_REFRESH)
        interrupt.click(lambda: shared.state.interrupt(), None, None, queue=False)
    return [(page, TITLE, ID)]


def _pressed(created: Callable[[], None], _: str, name: str, images: str, clip: str, batch: float) -> list[str]:
    state = webui_modules.import_module("shared").state

    def reached(done: int, total: int) -> None:
        state.job_count, state.job_no = total, done
        state.textinfo = f"{done} of {total} pictures"

    try:
        out = embedding_path(name, settings.aesthetic_folders()[0])
        folder = parse_folder(images, "the folder of pictures")
        state.textinfo = "Loading CLIP"
        job = EmbeddingJob.prepare(folder, resolve_clip_folder(clip), out, int(batch), _device())
        made = create_embedding(job, reached, lambda: bool(state.interrupted))
    except AdapterError as error:
        return [_html([str(error)])]
    except torch.cuda.OutOfMemoryError:
        return [_html(["There is not enough GPU memory: take fewer pictures at once."])]
    except OSError as error:
        return [_html([f"{error.filename or TITLE}: {error.strerror or error}."])]
    finally:
        state.textinfo = None
    created()
    return [_html([made.summary(), *made.skipped_messages()])]


def resolve_clip_folder(text: str) -> Path:
    """InvalidModelFolder where none was named and none lies where they usually do."""
    if text.strip():
        return parse_folder(text, "the CLIP folder")
    if (named := settings.clip_folder()) is not None:
        return named
    found = next((folder for folder in clip_search_folders() if _has_images(folder)), None)
    if found is None:
        raise InvalidModelFolder(
            "A CLIP model with its image encoder is needed and is not downloaded automatically. Put the files "
            f"model.safetensors, config.json and preprocessor_config.json of {CLIP_L} (on Hugging Face) into "
            f"{settings.default_clip_folder()}, or enter the folder that has them."
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
    found = getattr(webui_modules.import_optional("devices"), "device", None)
    return found if isinstance(found, torch.device) else torch.device("cpu")


def _html(lines: Sequence[str]) -> str:
    return "".join(f"<p>{html.escape(line)}</p>" for line in lines)
