"""`llmos audit`: what calls were made, and whether the log of them is whole. Reads files; needs no daemon."""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import datetime
from typing import Any

import llmos
from llmos.services.audit.chain import Broken
from llmos.services.audit.read import Filter, anchor_of, records, verify
from llmos.services.init.place import audit_folder, home_of

from .terminal import ALL_VISIBLE

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SHOWN = 160
"""Characters of the arguments in a line."""


def audit(found: argparse.Namespace) -> int:
    """Print the records that are asked for, or verify them all."""
    folder = audit_folder(home_of(found.home))
    if found.verify or found.anchor is not None:
        return _verify(found, folder)
    wanted = Filter(found.pid, found.call, None if found.since is None else since(found.since, time.time()), found.denied)
    for record in records(folder, wanted, follow=found.follow):
        print(json.dumps(record) if found.json else line(record))
        if found.follow:
            sys.stdout.flush()
    return 0


def _verify(found: argparse.Namespace, folder: Any) -> int:
    try:
        whole = verify(folder, None if found.anchor is None else anchor_of(found.anchor))
    except Broken as broken:
        if found.json:
            print(json.dumps({"whole": False, "why": str(broken)}))
        else:
            print(f"llmos: audit: the log in {folder} is not whole: {broken}", file=sys.stderr)
        return 1
    if found.json:
        print(json.dumps({"whole": True, "lines": whole.lines, "files": whole.files, "head": str(whole.head), "notes": whole.notes}))
        return 0
    print(f"the log is whole: {whole.lines} lines in {whole.files} files, up to {whole.head}")
    for note in whole.notes:
        print(f"note: {note}")
    return 0


def since(text: str, now: float) -> float:
    """A time: 10m, 2h, 3d ago, or 2026-11-23, 2026-11-23T06:00. Raises InvalidArgument."""
    number, unit = text[:-1], text[-1:]
    if unit in _UNITS and number.isascii() and number.isdecimal() and len(number) < 10:
        return now - int(number) * _UNITS[unit]
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise llmos.InvalidArgument(f"'{text[:100]}' is no time: write 10m, 2h or 3d for so long ago, or 2026-11-23T06:00") from None


def line(record: dict[str, Any]) -> str:
    """A record for people."""
    at = datetime.fromtimestamp(record.get("time", 0.0)).strftime("%Y-%m-%d %H:%M:%S")
    parts = [at, str(record.get("pid")), record.get("name") or "-", record.get("call") or "-", record.get("outcome") or "-"]
    if capabilities := record.get("capabilities"):
        parts.append(",".join(capabilities))
    for key, words in (("approved_by", "approved by"), ("denied_by", "denied by")):
        if pids := record.get(key):
            parts.append(f"{words} {', '.join(map(str, pids))}")
    arguments = json.dumps(record.get("arguments"), ensure_ascii=False)
    parts.append(arguments if len(arguments) <= _SHOWN else f"{arguments[:_SHOWN]}...")
    return "  ".join(parts).translate(ALL_VISIBLE)
