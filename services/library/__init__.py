"""The library: the models this machine has, and how they come here."""

from .manifest import File, Manifest
from .remote import Remote, Remotes
from .store import Library

__all__ = ["File", "Library", "Manifest", "Remote", "Remotes"]
