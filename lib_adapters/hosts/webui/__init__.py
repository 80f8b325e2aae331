"""The AUTOMATIC1111 web UI as a host. Its `modules.*` are imported only here, and only when needed.

Reading order: host, settings, names, model, builtin, embeddings, lifecycle, wanted, infotext, cards, rounds, voice,
hypernets, projections, leading, aesthetics, runtime, networks, accordion, api, page, xyz, register.
"""
