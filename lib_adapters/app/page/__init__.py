"""The stand-alone page: a prompt, images without and with its adapters, and the LyCORIS tab.

Reading order: painter, layout, neighbours, server, command. Only here is gradio imported outside the web UI.
"""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # else gradio asks its makers for news as soon as it is imported
