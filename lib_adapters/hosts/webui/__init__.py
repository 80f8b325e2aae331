"""AUTOMATIC1111's web UI as a host. Only here are its `modules.*` known; they are imported when they are needed.

Reading order: host, settings, names, model, builtin, embeddings, lifecycle, wanted, infotext, cards, rounds, voice,
hypernets, projections, leading, aesthetics, runtime, networks, accordion, api, page, xyz, register.
"""
