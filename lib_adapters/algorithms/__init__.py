"""The registry of algorithms. A new algorithm is one file in this package and one entry here."""

from __future__ import annotations

from lib_adapters.algorithms.abba import Abba
from lib_adapters.algorithms.adalora import AdaLora
from lib_adapters.algorithms.base import Algorithm, Shapes
from lib_adapters.algorithms.boft import Boft
from lib_adapters.algorithms.boft_input import BoftInput
from lib_adapters.algorithms.c3a import C3a
from lib_adapters.algorithms.deft import Deft
from lib_adapters.algorithms.delora import Delora
from lib_adapters.algorithms.dora import Doha, Dokr, Dora, DoraAbba
from lib_adapters.algorithms.fourierft import FourierFt
from lib_adapters.algorithms.full import Full
from lib_adapters.algorithms.glora import Glora
from lib_adapters.algorithms.gralora import Gralora
from lib_adapters.algorithms.hira import Hira
from lib_adapters.algorithms.hra import Hra
from lib_adapters.algorithms.ia3 import Ia3
from lib_adapters.algorithms.ln_tuning import LnTuning
from lib_adapters.algorithms.loha import Loha
from lib_adapters.algorithms.lokr import Lokr
from lib_adapters.algorithms.lora import Lora
from lib_adapters.algorithms.miss import Miss, MissBat
from lib_adapters.algorithms.norm import Norm
from lib_adapters.algorithms.oft import Oft, OftDiag
from lib_adapters.algorithms.oft_input import OftInput
from lib_adapters.algorithms.ortholora import OrthoLora
from lib_adapters.algorithms.randlora import RandLora
from lib_adapters.algorithms.replacement_weights import BIAS, ReplacementWeight
from lib_adapters.algorithms.road import Road
from lib_adapters.algorithms.shira import Shira
from lib_adapters.algorithms.tlora import TLora
from lib_adapters.algorithms.vblora import VbLora
from lib_adapters.algorithms.vera import Vera
from lib_adapters.algorithms.waveft import WaveFt
from lib_adapters.errors import UnknownAlgorithm

ALGORITHMS: tuple[type[Algorithm], ...] = (
    Abba,
    AdaLora,
    Boft,
    BoftInput,
    C3a,
    Deft,
    Delora,
    Doha,
    Dokr,
    Dora,
    DoraAbba,
    FourierFt,
    Full,
    Glora,
    Gralora,
    Hira,
    Hra,
    Ia3,
    LnTuning,
    Loha,
    Lokr,
    Lora,
    Miss,
    MissBat,
    Norm,
    Oft,
    OftDiag,
    OftInput,
    OrthoLora,
    RandLora,
    Road,
    Shira,
    TLora,
    VbLora,
    Vera,
    WaveFt,
    ReplacementWeight,
)


def select_algorithm(shapes: Shapes) -> type[Algorithm]:
    """The one algorithm that claims these leaves (leaf -> shape), else UnknownAlgorithm; the order never matters."""
    rest = {tensor_name: shape for tensor_name, shape in shapes.items() if tensor_name != BIAS} or shapes
    claimants = [algorithm for algorithm in ALGORITHMS if algorithm.claims(rest)]
    if len(claimants) != 1:
        names = " and ".join(a.label for a in claimants) or "no algorithm"
        raise UnknownAlgorithm(f"the tensors {', '.join(sorted(shapes))} are claimed by {names}")
    return claimants[0]
