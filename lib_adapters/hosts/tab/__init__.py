"""The LyCORIS tab without a host: its routes and the shell that its JavaScript fills.

The web UI's extension and the stand-alone page both use it. Reading order: tab, told, shell, guard, bodies,
control_routes, routes.
"""
