"""Whether a device can execute the rows of a step: asked before anything is written."""

from __future__ import annotations

from collections.abc import Sequence

from llmos.kernel.device import Geometry, Row
from llmos.kernel.errno import DeviceFailed


def check_rows(rows: Sequence[Row], geometry: Geometry) -> None:
    """Raise DeviceFailed for a row that this device cannot execute, before anything is written."""
    for row in rows:
        end = row.position + len(row.tokens)
        if not row.tokens or not 0 <= row.position < end <= geometry.window:
            raise DeviceFailed(f"burst {row.burst}: tokens {row.position}..{end} do not lie in a window of {geometry.window}")
        if not 0 <= min(row.tokens) <= max(row.tokens) < geometry.vocabulary:
            raise DeviceFailed(f"burst {row.burst}: a token id is outside 0..{geometry.vocabulary - 1}")
        if len(row.frames) * geometry.page_slots < end:
            raise DeviceFailed(f"burst {row.burst}: {len(row.frames)} frames do not cover {end} tokens")
        if row.history and not 0 <= min(row.history) <= max(row.history) < geometry.vocabulary:
            raise DeviceFailed(f"burst {row.burst}: a token id of its history is outside 0..{geometry.vocabulary - 1}")
        if not 0 <= min(row.frames) <= max(row.frames) < geometry.device_frames:
            raise DeviceFailed(f"burst {row.burst}: a frame is outside 0..{geometry.device_frames - 1}")
