"""What single tests need that not every environment has. A module that needs it throughout begins with `pytest.importorskip`."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
