"""``python -m llmos`` is the `llmos` command."""

from __future__ import annotations

import sys

from llmos.shell.command import main

if __name__ == "__main__":
    sys.exit(main())
