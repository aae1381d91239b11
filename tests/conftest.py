"""Fixtures that every folder of tests may use."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import platformdirs
import pytest

from llmos.drivers.examine import examine
from llmos.services.library import Library, Manifest

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts the tests with & has it ignored, here and in what they start


@pytest.fixture(scope="session")
def default_manifest() -> Manifest:
    """The default model, pulled into the same store that `make run` uses. The only fixture that may use the network."""
    home = Path(os.environ.get("LLMOS_HOME") or platformdirs.user_data_dir("llmos"))
    return Library(home, examine).pull(Library.default)


@pytest.fixture(scope="session")
def default_model(default_manifest: Manifest) -> Path:
    """Path of the default model: a GGUF file."""
    return default_manifest.path


@pytest.fixture(scope="session")
def default_cache(default_manifest: Manifest) -> Path:
    """Where what is derived from the default model is kept between runs."""
    return default_manifest.cache
