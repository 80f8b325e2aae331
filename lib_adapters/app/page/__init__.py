"""The stand-alone page: a prompt, a picture with and without its adapters, and the LyCORIS tab of the web UI beside it.

Reading order: painter, layout, neighbours, server, command. Only here is gradio imported outside the web UI.
"""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # else gradio asks its makers for news as soon as it is imported
