"""Adapters for Stable Diffusion: opened, put on a model as their trainers meant, and taken off without a trace.

    adapter = open_adapter("ink.safetensors")
    session = Session(unet=pipe.unet, text_encoders=[pipe.text_encoder])
    print(session.activate([Request(adapter, unet=0.8, te=0.5)]))
    session.deactivate()

Reading order: errors, ops, prompt, algorithms, files, patching, session, hosts, app.
"""

from lib_adapters.errors import AdapterError
from lib_adapters.files.adapter import Adapter, open_adapter
from lib_adapters.session import AdapterReport, Report, Request, Session

__all__ = ["Adapter", "AdapterError", "AdapterReport", "Report", "Request", "Session", "open_adapter"]
