"""The LyCORIS tab, independent of a host: its routes and its HTML shell.

The web UI's extension and the stand-alone page both use it. Reading order: tab, told, shell, guard, bodies,
control_routes, routes.
"""
