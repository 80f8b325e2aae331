"""Registers the bundle with the web UI, which executes this file; all else is in lib_adapters/hosts/webui."""

from modules import errors, scripts

try:
    import lib_adapters
    from lib_adapters.hosts.webui import register

    AestheticEmbeddings = register.start(lib_adapters, scripts.basedir())  # the host looks for it among the names here
except ImportError as error:
    where = getattr(error, "path", None) or "not found"
    errors.report(
        f"LyCORIS: {scripts.basedir()} stays off: {error} ({where}). Another extension may have a package of the "
        "same name; all tags are left to the web UI.",
        exc_info=True,
    )
except Exception:  # noqa: BLE001 - whatever it is, the web UI goes on
    errors.report("LyCORIS: the extension could not start; all tags are left to the web UI.", exc_info=True)
