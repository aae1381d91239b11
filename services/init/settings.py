"""Settings: the one model of what can be configured, from arguments, else from LLMOS_* in the environment, else defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from platformdirs import user_data_path
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from llmos.kernel.errno import InvalidArgument


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="LLMOS_", extra="ignore", frozen=True)

    home: Path = Field(default_factory=lambda: user_data_path("llmos"))
    """Where models, agents and history are."""
    model: str = Field(default="smollm2", min_length=1, max_length=128)
    """The model of a context that names none."""
    device: Literal["cpu", "torch", "reference", "dummy"] = "cpu"
    """cpu: native functions, or torch where they cannot be had."""
    policy: Literal["fair", "fcfs"] = "fair"
    device_memory: int | None = Field(default=None, ge=1 << 20, le=1 << 46)
    """Bytes for pages in the device tier of each model; None: a quarter of what is available, at most 4 GiB."""
    host_memory: int | None = Field(default=None, ge=0, le=1 << 46)
    """The same for the host tier."""
    kv: Literal["bf16", "int8"] = "bf16"
    """How the native functions keep keys and values in pages. int8: nearly twice the tokens in the same memory (decision 9)."""
    threads: int | None = Field(default=None, ge=1, le=1024)
    """Compute threads of a CPU device; None: as many as the machine has cores."""
    speculate: bool = True
    """Guess tokens from what a context has said before and verify several in one step, where that changes no token and pays."""
    files_quota: int = Field(default=1 << 30, ge=1 << 20, le=1 << 46)
    """Bytes that a user's files in /home may take, kept versions included; those in /tmp as much again."""
    runners: int = Field(default=2, ge=0, le=64)
    """Idle OS processes of a daemon that wait for a program to run: a start from them takes less."""
    runner_memory: int | None = Field(default=4 << 30, ge=64 << 20, le=1 << 46)
    """Bytes that each OS process of a program in a runner may have; None: no bound. More takes proc:limits."""
    runner_cpu_seconds: int | None = Field(default=None, ge=1, le=10**9)
    """The same for seconds of CPU."""
    idle_minutes: float | None = Field(default=None, gt=0, le=1e6)
    """After so long without a client and a process a daemon ends by itself; None: never, or 10 for one that llmsh has started."""
    listen: str | None = Field(default=None, pattern=r"^tcp://(\*|\[[0-9a-fA-F:.]+\]|[^:/\[\]\s*]+):\d{1,5}$")
    """tcp://HOST:PORT where a daemon lets in clients that have a key (llmos keys); None: nobody comes over the network."""
    audit: Literal["on", "full"] | None = None
    """Write every call down in HOME/audit; full: with what messages say (decision 19). A daemon always does, a boot if told to."""
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    """Where the seeds of all processes come from; None: another at each boot."""


def read_settings(**given: Any) -> Settings:
    """Settings with these arguments where they are not None. Raises InvalidArgument."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(map(str, first["loc"]))
        raise InvalidArgument(f"setting {name} (LLMOS_{name.upper()}): {first['msg']}") from None
