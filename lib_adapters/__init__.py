"""Apply adapters of diffusion models to a live model, as their trainers compute them, and restore it bit for bit.

    adapter = open_adapter("ink.safetensors")
    session = Session(unet=pipe.unet, text_encoders=[pipe.text_encoder])
    print(session.activate([Request(adapter, unet=0.8, te=0.5)]))
    session.deactivate()

Reading order: errors, ops, prompt, algorithms, files, patching, session, library, hosts, app.
"""

from lib_adapters.errors import AdapterError
from lib_adapters.files.adapter import Adapter, open_adapter
from lib_adapters.prompt.schedule import SamplingStep, parse_curve
from lib_adapters.session import AdapterReport, Report, Request, Session

__version__ = "0.1.0"
__all__ = [
    "Adapter",
    "AdapterError",
    "AdapterReport",
    "Report",
    "Request",
    "SamplingStep",
    "Session",
    "__version__",
    "open_adapter",
    "parse_curve",
]
