"""Every family against transformers: logits, and 64 greedy tokens however their pages came to be."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from contexts import Context, Frontend
from native import compiled

from llmos.drivers import attention
from llmos.drivers.cpu.device import NativeDevice
from llmos.drivers.reference import ReferenceDevice
from llmos.drivers.torch_cpu import TorchDevice
from llmos.kernel.device import Copy, Row, Sampling, Step, Tier

from .models import FAMILIES, VOCABULARY, Golden, make


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Golden]:
    """Makes a family's model once."""
    made: dict[str, Golden] = {}

    def once(name: str) -> Golden:
        if name not in made:
            made[name] = make(name, tmp_path_factory.mktemp(name))
        return made[name]

    return once


@pytest.fixture(scope="session", params=list(FAMILIES))
def golden(request: pytest.FixtureRequest, build: Callable[[str], Golden]) -> Golden:
    """Every family in turn."""
    return build(request.param)


def torch_device(golden: Golden, slots: int = 8, dtype: str = "fp32") -> TorchDevice:
    return TorchDevice(golden.checkpoint, name=golden.name, frames=160, host_frames=40, page_slots=slots, dtype=dtype)


def reference_device(golden: Golden, slots: int = 8) -> ReferenceDevice:
    return ReferenceDevice(golden.checkpoint, name=golden.name, frames=160, host_frames=40, page_slots=slots)


def native_device(golden: Golden, slots: int = 16, threads: int = 1) -> NativeDevice:
    return NativeDevice(compiled(), golden.checkpoint, name=golden.name, frames=160, host_frames=40, page_slots=slots, threads=threads)


DEVICES = {"torch": torch_device, "eager": torch_device, "reference": reference_device, "native": native_device}
NATIVE_TOLERANCE = 0.35
"""Weights, activations and KV in bfloat16, of logits whose standard deviation is 1 to 3."""


ORACLES = ("llama-tied-llama3-rope", "mistral-sliding", "qwen2-sliding-above", "qwen3")
PAIRS = [(family, device) for family in FAMILIES for device in DEVICES if device != "reference" or family in ORACLES]
"""The reference is slow; four families have everything that it must do."""


@pytest.fixture(params=PAIRS, ids=["-".join(pair) for pair in PAIRS])
def pair(request: pytest.FixtureRequest, build: Callable[[str], Golden], monkeypatch: pytest.MonkeyPatch) -> tuple[Golden, Frontend]:
    """A model, and a device to drive by hand. "eager" shares and keeps every page it may, which so few tokens would not be worth."""
    family, device = request.param
    if device == "eager":
        monkeypatch.setattr(attention, "SNAPSHOT_NUMBERS", 0)
        monkeypatch.setattr(attention, "GROUP_NUMBERS", 0)
        monkeypatch.setattr(attention, "RECENT_TOKENS", 16)
    golden = build(family)
    if device == "native":
        return replace(golden, tolerance=NATIVE_TOLERANCE), Frontend(native_device(golden))
    return golden, Frontend(DEVICES[device](golden))


@pytest.fixture
def golden_of(pair: tuple[Golden, Frontend]) -> Golden:
    return pair[0]


@pytest.fixture
def frontend(pair: tuple[Golden, Frontend]) -> Frontend:
    return pair[1]


def prompt(length: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(3, VOCABULARY), k=length)


def test_logits(golden: Golden) -> None:
    tokens = prompt(61)
    row = Row(0, tuple(tokens), 0, tuple(range(8)))
    expected = golden.logits(tokens)
    assert expected.std() > 0.5, "a model whose logits are all alike tests nothing"
    device = torch_device(golden)
    for got in (reference_device(golden).logits(row), device.decoder.logits(device.forward([row]))):
        torch.testing.assert_close(got, expected, atol=2e-4, rtol=1e-4)


def test_alone(golden_of: Golden, frontend: Frontend) -> None:
    context = Context(prompt(45))
    (output,) = frontend.generate([context], 64)
    golden_of.agrees(prompt(45), output)


def test_batched_with_lengths_and_phases_mixed(golden_of: Golden, frontend: Frontend) -> None:
    """A batch whose rows are one token, a few, many pages long; one joins while the others decode."""
    prompts = [prompt(length, length) for length in (1, 5, 33, 90, 91)]
    contexts = [Context(list(tokens)) for tokens in prompts]
    early = frontend.generate(contexts[:4], 5)
    late = frontend.generate(contexts, 40)
    for tokens, output in zip(prompts, [first + second for first, second in zip([*early, []], late, strict=True)], strict=True):
        golden_of.agrees(tokens, output)


@pytest.mark.parametrize("chunk", [1, 7, 16])
def test_chunked(golden_of: Golden, frontend: Frontend, chunk: int) -> None:
    context = Context(prompt(50))
    frontend.prefill(context, chunk)
    assert context.stored == 50
    (output,) = frontend.generate([context], 64)  # begins with the last token computed again and not stored
    golden_of.agrees(prompt(50), output)


def test_last_token_again_does_not_write(golden_of: Golden, frontend: Frontend) -> None:
    context = Context(prompt(21))
    frontend.prefill(context)
    before = page_bytes(frontend, context.frames)
    (output,) = frontend.generate([context], 1)
    assert torch.equal(page_bytes(frontend, context.frames), before)
    golden_of.agrees(prompt(21), output)


def test_forked(golden_of: Golden, frontend: Frontend) -> None:
    """Twins share all full pages, each goes its own way, and a twin of a twin too."""
    parent = Context(prompt(45))
    frontend.prefill(parent)
    family, copies = [parent], []
    for ending in (5, 6, 7):
        twin, copied = frontend.fork(parent)
        twin.tokens.append(ending)
        family.append(twin)
        copies += copied
    frontend.step([], copies)
    outputs = frontend.generate(family, 20)
    twin, copied = frontend.fork(family[2])
    frontend.step([], copied)
    family.append(twin)
    more = frontend.generate(family, 44)
    for context, output in zip(family, more, strict=True):
        golden_of.agrees(context.tokens[:-44], output)
    for ending, output in zip(([], [5], [6], [7]), outputs, strict=True):
        golden_of.agrees(prompt(45) + ending, output)
    assert len({tuple(output) for output in outputs}) > 1


def test_prefix_hit(golden_of: Golden, frontend: Frontend) -> None:
    """A second context begins on pages that the first one filled."""
    first = Context(prompt(48))
    frontend.prefill(first)
    kept = 40 // frontend.slots * frontend.slots
    second = Context(prompt(48)[:kept] + prompt(17, 3), first.frames[: kept // frontend.slots], kept)
    whole = Context(prompt(48), list(first.frames), 48)
    outputs = frontend.generate([first, second, whole], 64)
    golden_of.agrees(prompt(48), outputs[0])
    golden_of.agrees(prompt(48)[:kept] + prompt(17, 3), outputs[1])
    assert outputs[2] == outputs[0]


def test_swapped_out_and_in(golden_of: Golden, frontend: Frontend) -> None:
    context = Context(prompt(45))
    (begun,) = frontend.generate([context], 20)
    before, old = page_bytes(frontend, context.frames), list(context.frames)
    copies = frontend.swap(context, range(20, 40))
    half = len(copies) // 2
    frontend.step([], copies[:half])
    other = Context(prompt(frontend.slots * len(old), 9), old)  # others use the frames meanwhile
    frontend.generate([other], 2)
    frontend.step([], copies[half:])
    assert torch.equal(page_bytes(frontend, context.frames), before)
    (output,) = frontend.generate([context], 44)
    golden_of.agrees(prompt(45), begun + output)


def test_a_step_copies_before_it_computes(golden_of: Golden, frontend: Frontend) -> None:
    context = Context(prompt(45))
    frontend.prefill(context)
    copies = frontend.swap(context, range(10))
    outcome = frontend.step([frontend.row(context)], copies)
    golden_of.agrees(prompt(45), list(outcome.tokens[0]))


@pytest.mark.parametrize("slots", [1, 5, 16, 64])
def test_page_sizes(golden: Golden, slots: int) -> None:
    frontend = Frontend(torch_device(golden, slots))
    context = Context(prompt(30))
    frontend.prefill(context, 11)
    (output,) = frontend.generate([context], 34)
    golden.agrees(prompt(30), output)


def test_bf16_is_near(golden: Golden) -> None:
    """bf16 rounds every product to 8 bits: logits near the reference's, and mostly the same greedy tokens."""
    tokens = prompt(61)
    row = Row(0, tuple(tokens), 0, tuple(range(8)))
    device = torch_device(golden, dtype="bf16")
    expected, got = golden.logits(tokens), device.decoder.logits(device.forward([row])).float()
    error = (got - expected).norm() / (expected - expected.mean()).norm()
    assert error < 0.05, f"relative error {error:.3f}"
    assert (got.argmax(-1) == expected.argmax(-1)).float().mean() > 0.8


@pytest.mark.parametrize("kind", ["bf16", "int8", "w8a8"])
def test_native_is_near(golden: Golden, kind: str) -> None:
    """Log-probabilities of the next token after each of 61, and mostly the same greedy tokens."""
    tokens = prompt(61)
    device = NativeDevice(compiled(), golden.checkpoint, name=golden.name, frames=8, weights=kind)
    expected = golden.logits(tokens)
    logs = expected.log_softmax(-1)
    same, errors = 0, []
    for count in range(1, 62):
        row = Row(0, tuple(tokens[:count]), 0, tuple(range(4)), sampling=Sampling(logprobs=20))
        outcome = device.execute(Step(count, (row,)))
        same += outcome.tokens == ((int(expected[count - 1].argmax()),),)
        errors += [value - float(logs[count - 1, token]) for token, value in outcome.logprobs[0][0].top]
    device.close()
    error = float(np.sqrt(np.square(errors).mean())) / float(expected.std())
    assert error < {"bf16": 0.03, "int8": 0.06, "w8a8": 0.12}[kind], f"relative error {error:.3f}"
    assert same > (61 * 0.6 if kind == "w8a8" else 61 * 0.8), f"{same} of 61"


def page_bytes(frontend: Frontend, frames: list[int]) -> torch.Tensor:
    device = frontend.device
    if isinstance(device, NativeDevice):
        return torch.from_numpy(device.frames[Tier.DEVICE][frames].view(np.int16))
    if isinstance(device, TorchDevice):
        return torch.stack([device.frames.page(Tier.DEVICE, frame) for frame in frames]).clone()
    assert isinstance(device, ReferenceDevice)
    return device.pages[Tier.DEVICE][frames].clone()


def test_copy_to_itself_and_between_tiers(golden_of: Golden, frontend: Frontend) -> None:
    context = Context(prompt(8))
    frontend.prefill(context)
    page = page_bytes(frontend, context.frames)
    frame = context.frames[0]
    frontend.step(
        [],
        [
            Copy(Tier.DEVICE, frame, Tier.DEVICE, frame),
            Copy(Tier.DEVICE, frame, Tier.HOST, 3),
            Copy(Tier.HOST, 3, Tier.HOST, 4),
            Copy(Tier.HOST, 4, Tier.DEVICE, 0),
        ],
    )
    assert torch.equal(page_bytes(frontend, [0]), page)
