"""Tools that a home has in its tools.toml: servers that speak MCP, and commands in a sandbox. One process, `tools`, offers them all."""

from .config import ToolsFile, load, path_of

__all__ = ["ToolsFile", "load", "path_of"]
