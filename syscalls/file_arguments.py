"""The arguments of the file family. Paths are checked for what they mean in place.py; here they are text of a bounded length."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from . import param
from .arguments import Arguments, Count

FilePath: TypeAlias = Annotated[str, Field(min_length=1, max_length=param.MAX_FILE_PATH, pattern=r"^[^\x00-\x1f\x7f]+$")]


class OfFile(Arguments):
    path: FilePath


class FileRead(OfFile):
    offset: Count = 0
    most: Annotated[int, Field(ge=1, le=param.MAX_BYTES)] = param.MAX_BYTES


class FileWrite(OfFile):
    data: Annotated[bytes, Field(max_length=param.MAX_FILE_WRITE)]
    append: bool = False


class FilePair(Arguments):
    source: FilePath
    target: FilePath


class FileListing(OfFile):
    """A page of a folder: the names after `after`."""

    after: Annotated[str, Field(max_length=param.MAX_PART)] = ""
    limit: Annotated[int, Field(ge=1, le=param.MAX_ENTRIES)] = param.ENTRIES


class FileRemove(OfFile):
    tree: bool = False
    versions: bool = False
    """Forget what is kept of it, too."""


class FileMake(OfFile):
    parents: bool = False
    """Make the folders above it too, and do not mind if it is there."""


class FileRestore(OfFile):
    version: Annotated[int, Field(ge=1, le=param.MAX_ID)] | None = None
    """None: the newest."""
