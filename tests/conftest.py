"""Model folders are made once for the whole run; tests that change one work on a copy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from folders import model_folder

torch.set_num_threads(1)  # the models are tiny: threads that wait for each other cost more than they give


@pytest.fixture(scope="session")
def sd1_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("models") / "tiny-sd1", "sd1")


@pytest.fixture(scope="session")
def sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("models") / "tiny-sdxl", "sdxl")
