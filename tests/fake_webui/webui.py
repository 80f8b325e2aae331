"""A web UI in one process: `modules.*` in sys.modules, scripts executed and never imported, jobs with a cache."""

from __future__ import annotations

import hashlib
import sys
import threading
import types
from pathlib import Path

import torch

from tests.fake_webui import builtin_hypernetwork, cfg_denoiser, extra_networks, prompt_parser
from tests.fake_webui import builtin_lora as builtin
from tests.fake_webui.checkpoint import checkpoint
from tests.fake_webui.extra_networks_ui import Grid, Pages
from tests.fake_webui.options import OptionInfo, Options
from tests.fake_webui.processing import Drawing, strip_comments
from tests.fake_webui.sd_hijack_clip import SdConditioning
from tests.fake_webui.sd_models import FIRST, Loader, ModelData
from tests.fake_webui.state import State
from tests.fake_webui.textual_inversion import Words, create_embedding_from_data

ROOT = Path(__file__).resolve().parents[2]


class WebUI:
    """`builtin_lora`: is the built-in Lora enabled?"""

    def __init__(self, folder: Path, monkeypatch, *, builtin_lora=True, release="1.10.1"):
        self.folder, self.has_builtin, self.monkeypatch = folder, builtin_lora, monkeypatch
        self.release = release
        self.reports: list = []
        self.hashed: dict = {}  # the host's cache of hashes
        self.conds: list = []  # the one slot of the host's conditioning cache, for jobs of a single run
        self.caches = [[None, None] for _ in range(4)]  # and its slots for whole ones
        self.encoded = 0  # how often conditioning was made for these
        self.interrupt_after = None  # the step behind which the user presses Interrupt
        self.loader = Loader(self)
        (folder / "Lora").mkdir(parents=True)
        self._callbacks: dict = {}
        self._install()
        self.model = checkpoint()
        self.model.sd_checkpoint_info = FIRST
        self.sd_models.model_data.set_sd_model(self.model)
        self.load_scripts()

    def _module(self, name, **content):
        module = types.ModuleType(f"modules.{name}")
        vars(module).update(content)
        self.monkeypatch.setitem(sys.modules, module.__name__, module)
        setattr(self, name, module)
        self.monkeypatch.setattr(sys.modules["modules"], name, module, raising=False)

    def _install(self):
        package = types.ModuleType("modules")
        package.__path__ = []
        self.monkeypatch.setitem(sys.modules, "modules", package)
        extra_networks.initialize()
        extra_networks.displayed.clear()
        self.monkeypatch.setitem(sys.modules, "modules.extra_networks", extra_networks)
        self.monkeypatch.setattr(package, "extra_networks", extra_networks, raising=False)
        templates: dict = {}
        opts = Options(templates)
        flags = types.SimpleNamespace(lora_dir=str(self.folder / "Lora"), api_auth=None)
        self._module("shared", opts=opts, cmd_opts=flags, options_templates=templates, OptionInfo=OptionInfo)
        self.shared.loaded_hypernetworks = []
        builtin_hypernetwork.shared = self.shared
        self.shared.state = State()
        self.shared.options_section = lambda section, options: options
        opts.data |= {"extra_networks_default_multiplier": 0.5, "batch_cond_uncond": True}
        opts.data |= {"skip_early_cond": 0.0, "s_min_uncond_all": False}
        self._module("paths", models_path=str(self.folder), data_path=str(self.folder / "data"))
        loader = {name: getattr(self.loader, name) for name in ("load_model", "reload_model_weights")}
        self._module("sd_models", model_data=ModelData(sd_model=None, loaded_sd_models=[]), **loader)
        self._install_sampling()
        self._module("sd_unet", current_unet=None)
        self._module("errors", report=self._report, display=lambda e, task, *, full_traceback=False: None)
        self._module("call_queue", queue_lock=threading.Lock(), wrap_gradio_gpu_call=wrap_gradio_gpu_call)
        self._module("extensions", active=lambda: [])
        self._module("scripts", basedir=lambda: str(ROOT), scripts_data=[], Script=Script, AlwaysVisible=object())
        self.pages = Pages(self.release)
        self.monkeypatch.setitem(sys.modules, "modules.ui_extra_networks", self.pages)
        self.monkeypatch.setattr(package, "ui_extra_networks", self.pages, raising=False)
        self._module("hashes", sha256=self._sha256, sha256_from_cache=self._sha256_from_cache)
        names = ("before_ui", "ui_tabs", "app_started", "script_unloaded", "infotext_pasted", "cfg_denoiser")
        self._module("script_callbacks", **{f"on_{name}": self._listener(name) for name in names})
        self.script_callbacks.clear_callbacks = lambda: self._callbacks.clear()
        self.script_callbacks.CFGDenoiserParams = cfg_denoiser.params_of(self.release)
        self.words = Words()
        self._module("sd_hijack", model_hijack=types.SimpleNamespace(embedding_db=self.words))
        self._module("textual_inversion")
        inversion = types.ModuleType("modules.textual_inversion.textual_inversion")
        inversion.create_embedding_from_data = create_embedding_from_data
        self.monkeypatch.setitem(sys.modules, inversion.__name__, inversion)
        gradio = types.ModuleType("gradio")
        gradio.Radio = gradio.Dropdown = gradio.Number = object
        self.monkeypatch.setitem(sys.modules, "gradio", gradio)
        self.monkeypatch.setitem(sys.modules, "networks", builtin if self.has_builtin else None)
        if not self.has_builtin:
            self.monkeypatch.delitem(sys.modules, "networks")
        builtin.reset(self)

    def _install_sampling(self):
        exception, refiner = cfg_denoiser.InterruptedException, self.loader.apply_refiner
        self._module("sd_samplers_common", InterruptedException=exception, apply_refiner=refiner)
        self._module("sd_samplers_cfg_denoiser", CFGDenoiser=cfg_denoiser.CFGDenoiser)
        self._module("shared_state", State=State)
        names = ("get_learned_conditioning", "get_multicond_learned_conditioning")
        self._module("prompt_parser", SdConditioning=SdConditioning, **{n: getattr(prompt_parser, n) for n in names})

    def denoiser_params(self, *given):
        """Only from 1.8 on with the denoiser."""
        make = self.script_callbacks.CFGDenoiserParams
        return make(*(given[:-1] if make is cfg_denoiser.OldCFGDenoiserParams else given))

    def _listener(self, name):
        def on(callback, *, name=None):
            self._callbacks.setdefault(event, []).append(callback)

        event = name
        return on

    def _report(self, message, *, exc_info=False):
        self.reports.append((message, sys.exc_info()[1]))

    def _sha256(self, filename, title, use_addnet_hash=False):
        data = Path(filename).read_bytes()
        start = 8 + int.from_bytes(data[:8], "little") if use_addnet_hash else 0
        self.hashed[title] = Path(filename).stat().st_mtime_ns, hashlib.sha256(data[start:]).hexdigest()
        return self.hashed[title][1]

    def _sha256_from_cache(self, filename, title, use_addnet_hash=False):
        """By title; the file itself only tells whether it is newer."""
        when, found = self.hashed.get(title, (0, None))
        return found if Path(filename).exists() and Path(filename).stat().st_mtime_ns <= when else None

    def call(self, event, *arguments, backwards=False):
        for callback in list(self._callbacks.get(event, []))[:: -1 if backwards else 1]:
            callback(*arguments)

    def swallowing(self, event, *arguments):
        """What a callback raises is printed, and the job goes on."""
        for callback in list(self._callbacks.get(event, [])):
            try:
                callback(*arguments)
            except Exception:  # noqa: BLE001 - the host does
                self.errors.report(f"Error executing callback {event}", exc_info=True)

    def draw(self, prompt, negative_prompt="", **options):
        """One whole job."""
        return Drawing(self, prompt, negative_prompt, **options).run()

    def load_scripts(self):
        """Executed with the file's name as `__name__`; registries are emptied after it; the built-in comes last."""
        self.script_callbacks.clear_callbacks()
        self.grid = Grid()
        self.scripts.scripts_data[:] = [self.grid.data()]
        path = ROOT / "scripts" / "lycoris.py"
        names = {"__name__": path.name, "__file__": str(path)}
        exec(compile(path.read_text(), str(path), "exec"), names)
        classes = [one for one in names.values() if isinstance(one, type) and issubclass(one, Script)]
        self.always_on = [one() for one in classes]
        extra_networks.initialize()
        self.own_hypernet = builtin_hypernetwork.ExtraNetworkHypernet()
        extra_networks.register_extra_network(self.own_hypernet)  # the host's default, before any extension's
        self.pages.extra_pages.clear()
        self.call("before_ui", backwards=True)
        if self.has_builtin:
            network = builtin.ExtraNetworkLora()
            extra_networks.register_extra_network(network)
            extra_networks.register_extra_network_alias(network, "lyco")
        self.app = App()
        self.call("app_started", None, self.app)

    @property
    def runtime(self):
        """The extension's only memory."""
        return extra_networks.extra_network_registry["lyco"].runtime

    def reload_ui(self):
        self.call("script_unloaded", backwards=True)
        self.load_scripts()

    def picture(self, prompt, values=(), **options):
        """One job: the prompt's tags activated, conditioning (cached as the host does), one run of the UNet.

        `values`: of the one script that is always on."""
        job = Job(self, [prompt] if isinstance(prompt, str) else prompt, **options)
        job.all_prompts = [strip_comments(text) for text in job.all_prompts]
        for script in self.always_on:
            script.process(job, *values)
        job.run()
        for script in self.always_on:
            script.postprocess_batch(job, *values, batch_number=0)
        return job


def wrap_gradio_gpu_call(func, extra_outputs=None):
    """The host also adds the time to the last output."""

    def call(*given):
        shared, queue = sys.modules["modules.shared"], sys.modules["modules.call_queue"]
        with queue.queue_lock:
            shared.state.interrupted, shared.state.job_no = False, 0
            return tuple(func(*given))

    return call


class Script:
    """The host's; every subclass that is a name in an executed file is taken for a script."""

    def elem_id(self, item_id):
        return f"script_{item_id}"

    def postprocess_image(self, p, pp, *args):
        pass


class App:
    def __init__(self):
        self.routes = {}
        self.routers: list = []  # of fastapi
        self.api_routes: list = []

    def include_router(self, router):
        self.routers.append(router)

    def add_api_route(self, path, endpoint, **options):
        self.routes[path] = endpoint
        self.api_routes.append((path, endpoint, options))

    def real(self):
        """The same routes in a real one."""
        from fastapi import FastAPI

        made = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        for router in self.routers:
            made.include_router(router)
        for path, endpoint, options in self.api_routes:
            made.add_api_route(path, endpoint, **options)
        return made


class Job:
    """The part of `StableDiffusionProcessing` that extensions see."""

    def __init__(self, host, prompts, negative=""):
        self.host = host
        self.all_prompts, self.negative_prompts = prompts, [negative]
        self.batch_size, self.iteration, self.scripts = len(prompts), 0, None
        self.is_hr_pass = False
        self.extra_generation_params: dict = {}
        self.comments: dict = {}

    def comment(self, text):
        self.comments[text] = 1

    def cached_params(self, required_prompts, steps, extra_network_data, hires_steps=None, use_old_scheduling=False):
        return required_prompts, steps, self.host.model.sd_checkpoint_info, extra_network_data

    def activate(self):
        self.prompts, self.extra_network_data = extra_networks.parse_prompts(self.all_prompts)
        with torch.no_grad():
            extra_networks.activate(self, self.extra_network_data)

    def conditioning(self):
        key = self.cached_params(self.prompts, 1, self.extra_network_data)
        if not self.host.conds or self.host.conds[0] != key:
            texts = SdConditioning(self.negative_prompts, is_negative_prompt=True), SdConditioning(self.prompts)
            uncond, cond = (self.host.model.text(one) for one in texts)
            self.host.conds[:] = [key, cond, uncond]
        return self.host.conds[1]

    def run(self):
        self.activate()
        with torch.no_grad():
            self.image = self.host.model.denoise(self.conditioning()[:1])
        if self.extra_network_data:
            extra_networks.deactivate(self, self.extra_network_data)
        return self
