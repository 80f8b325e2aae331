"""The panel that creates aesthetic embeddings from folders of images."""

from __future__ import annotations

import html
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import gradio as gr
import torch

from lib_adapters.app.errors import describe_error
from lib_adapters.hosts.diffusers.create_embedding import (
    DEFAULT_BATCH_SIZE,
    MAX_BATCH_SIZE,
    EmbeddingJob,
    EmbeddingResult,
    OnProgress,
    create_embedding,
    embedding_path,
    parse_folder,
)

_REFRESH = "() => { document.querySelector('.lycoris-tab [data-part=refresh]')?.click(); return []; }"


class EmbeddingWorker:
    """One at a time, with a way to stop. `clip` is the model's own CLIP folder, `folder` where the files go."""

    def __init__(self, clip: Path | None, folder: Path, device: torch.device, on_created: Callable[[], None]) -> None:
        """`made` is called when there is a new file."""
        self.clip = clip
        self._folder, self._device, self._made = folder, device, on_created
        self._stop = threading.Event()
        self._busy = threading.Lock()

    def stop(self) -> None:
        self._stop.set()

    def create(self, name: str, images: str, clip: str, batch: int, reached: OnProgress) -> EmbeddingResult:
        """AdapterError says what is missing, or that it was stopped."""
        with self._busy:
            self._stop.clear()
            out = embedding_path(name, self._folder)
            folder = parse_folder(images, "the folder of pictures")
            where = parse_folder(clip, "the folder of a local CLIP model with its image side (nothing is fetched)")
            made = create_embedding(
                EmbeddingJob.prepare(folder, where, out, batch, self._device), reached, self._stop.is_set
            )
        self._made()
        return made


def create_panel(maker: EmbeddingWorker) -> None:
    with gr.Accordion("Create aesthetic embedding", open=False, elem_id="page_create"):
        with gr.Row():
            name = gr.Textbox("", label="Name", max_lines=1, elem_id="page_create_name")
            batch = gr.Slider(
                1, MAX_BATCH_SIZE, DEFAULT_BATCH_SIZE, step=1, label="Pictures at once", elem_id="page_create_batch"
            )
        images = gr.Textbox("", label="Folder of pictures", max_lines=1, elem_id="page_create_pictures")
        usual = str(maker.clip) if maker.clip else ""
        clip = gr.Textbox(usual, label="CLIP folder, with its image side", max_lines=1, elem_id="page_create_clip")
        with gr.Row():
            button = gr.Button("Create", elem_id="page_create_button")
            stop = gr.Button("Stop", elem_id="page_create_stop")
        result = gr.HTML(_html([]), elem_id="page_create_result")
        done = button.click(_pressed(maker), [name, images, clip, batch], result, api_name=False)
        done.then(None, None, None, _js=_REFRESH, api_name=False)
        stop.click(maker.stop, None, None, queue=False, api_name=False)


def _pressed(maker: EmbeddingWorker) -> Callable[..., str]:
    def pressed(
        name: str,
        images: str,
        clip: str,
        batch: float,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how gradio is asked for one
    ) -> str:
        def reached(done: int, total: int) -> None:
            progress(done / total, desc=f"{done} of {total} pictures")  # gradio's own numbers lie under its bar

        try:
            made = maker.create(name, images, clip, int(batch), reached)
        except Exception as error:  # noqa: BLE001 - the page says it and goes on
            return _html([describe_error(error)[0]], "lycoris-problem")
        return _html([made.summary(), *made.skipped_messages()])

    return pressed


def _html(lines: Sequence[str], kind: str = "") -> str:
    paragraphs = "".join(f'<p class="{kind}">{html.escape(line)}</p>' for line in lines)
    return f'<div style="min-height: 5rem">{paragraphs}</div>'  # gradio draws its bar over this, whatever its height
