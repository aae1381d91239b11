"""The torch and the native CPU driver each execute the same random steps as the reference and must agree on every one.

Contexts are born, grow, fork, are swapped out and in, and die, so that frames pass from one to another; batches mix
decodes and chunks of any length. The torch driver shares and keeps every page it may. Whatever was gathered at an
earlier step and is no longer true would show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from contexts import Context, Frontend
from forms import Rule, bits
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from native import compiled

from llmos.drivers import attention
from llmos.drivers.config import ModelConfig, Rope, weight_shapes
from llmos.drivers.cpu.device import NativeDevice
from llmos.drivers.reference import ReferenceDevice
from llmos.drivers.sampler import sample
from llmos.drivers.torch_cpu import TorchDevice
from llmos.drivers.weights import Checkpoint, Weight
from llmos.kernel.device import Device, Geometry, Outcome, Row, Sampling, Step
from llmos.kernel.errno import DeviceFailed

VOCABULARY = 48
WATCHED = Sampling(logprobs=4, hidden=True)
HOWS = (WATCHED, Sampling(temperature=0.9, seed=3, repetition_penalty=1.4, logprobs=2), Sampling(temperature=1.1, top_k=9, top_p=0.9))
NATIVE_TOLERANCE = 0.5
"""Of log-probabilities between -5 and 0: weights, activations and KV in bfloat16."""


def checkpoint(window: int | None, head_width: int = 8) -> Checkpoint:
    """One layer with full attention and one that may slide, random weights."""
    config = ModelConfig(
        "qwen3", 2, 16, 4, 2, head_width, 24, VOCABULARY, 128, 1e-5, Rope(1e4), True, True, False, False, True, (None, window)
    )  # fmt: skip
    random = np.random.default_rng(3)
    arrays = {name: random.normal(0.0, 0.4, shape).astype(np.float32) for name, shape in weight_shapes(config).items()}
    weights = {name: Weight("f32", array.shape, lambda array=array: array) for name, array in arrays.items()}  # type: ignore[misc]
    return Checkpoint(config, weights, lambda: bytes(32))


class Both:
    """A Device that is two, and complains when they differ. What it says is the reference's."""

    def __init__(self, device: Device, reference: ReferenceDevice, tolerance: float) -> None:
        self.device, self.reference, self.tolerance = device, reference, tolerance

    @property
    def geometry(self) -> Geometry:
        return self.device.geometry

    def execute(self, step: Step) -> Outcome:
        got, expected = self.device.execute(step), self.reference.execute(step)
        assert [len(tokens) for tokens in got.tokens] == [len(tokens) for tokens in expected.tokens]
        for our_row, their_row in zip(got.logprobs, expected.logprobs, strict=True):
            for ours, theirs in zip(our_row, their_row, strict=True):
                assert [value for _, value in ours.top] == pytest.approx([value for _, value in theirs.top], abs=self.tolerance)
        assert [row for row, _ in got.hidden] == [row for row, _ in expected.hidden]
        for (_, our_state), (_, their_state) in zip(got.hidden, expected.hidden, strict=True):
            assert our_state == pytest.approx(their_state, abs=self.tolerance)
        return expected

    def close(self) -> None:
        self.device.close()
        self.reference.close()


def torch_and_reference(window: int | None) -> Both:
    weights, shape = checkpoint(window), {"name": "both", "frames": 70, "host_frames": 30, "page_slots": 4}
    return Both(TorchDevice(weights, **shape, dtype="fp32", threads=1), ReferenceDevice(weights, **shape), 2e-3)


def native_and_reference(window: int | None) -> Both:
    """Pages of 16 slots, numbers of 8 bits."""
    weights, shape = checkpoint(window, 16), {"name": "both", "frames": 70, "host_frames": 30, "page_slots": 16}
    return Both(NativeDevice(compiled(), weights, **shape, threads=2), ReferenceDevice(weights, **shape), NATIVE_TOLERANCE)


class Machine(RuleBasedStateMachine):
    devices = staticmethod(torch_and_reference)

    @initialize(window=st.sampled_from([None, 6, 13]))
    def boot(self, window: int | None) -> None:
        self.frontend = Frontend(self.devices(window))
        self.contexts: list[Context] = []

    def teardown(self) -> None:
        if hasattr(self, "frontend"):
            self.frontend.device.close()

    def room(self, tokens: int) -> bool:
        return len(self.frontend.free) > len(self.contexts) + math.ceil(tokens / 4)

    @rule(length=st.integers(1, 30), seed=st.integers(0, 99))
    def open(self, length: int, seed: int) -> None:
        if self.room(length) and len(self.contexts) < 6:
            self.contexts.append(Context(np.random.default_rng(seed).integers(0, VOCABULARY, length).tolist()))

    @precondition(lambda self: self.contexts)
    @rule(data=st.data(), steps=st.integers(1, 8))
    def decode(self, data: st.DataObject, steps: int) -> None:
        """Some contexts generate together; what they have not stored is computed in the first step."""
        chosen = data.draw(st.lists(st.sampled_from(range(len(self.contexts))), min_size=1, max_size=6, unique=True))
        contexts = [self.contexts[index] for index in chosen if len(self.contexts[index].tokens) < 90]
        if contexts and self.room(sum(len(context.tokens) - context.stored + steps for context in contexts)):
            self.frontend.generate(contexts, steps, WATCHED)

    @precondition(lambda self: any(context.stored < len(context.tokens) < 90 for context in self.contexts))
    @rule(data=st.data(), guesses=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=6), how=st.sampled_from(HOWS))
    def verify(self, data: st.DataObject, guesses: list[int], how: Sampling) -> None:
        """A context verifies guesses beside another that decodes; what stands is kept, and what does not is overwritten later."""
        context, *others = data.draw(st.permutations([one for one in self.contexts if one.stored < len(one.tokens) < 90]))
        if not self.room(sum(len(one.tokens) - one.stored + 6 for one in (context, *others[:1]))):
            return
        rows = [self.frontend.guess(context, guesses, how), *(self.frontend.row(one, sampling=WATCHED) for one in others[:1])]
        sampled, *more = self.frontend.step(rows).tokens
        right = next((place for place, guess in enumerate(guesses) if guess != sampled[place]), len(guesses))
        context.stored += right
        context.tokens += sampled[: right + 1]
        for one, tokens in zip(others, more, strict=False):
            one.tokens += tokens

    @precondition(lambda self: self.contexts)
    @rule(data=st.data(), chunk=st.integers(1, 9))
    def prefill(self, data: st.DataObject, chunk: int) -> None:
        context = data.draw(st.sampled_from(self.contexts))
        if self.room(len(context.tokens)):
            self.frontend.prefill(context, chunk)

    @precondition(lambda self: self.contexts)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        parent = data.draw(st.sampled_from(self.contexts))
        if len(self.contexts) < 6 and self.room(4):
            twin, copies = self.frontend.fork(parent)
            twin.tokens.append(data.draw(st.integers(0, VOCABULARY - 1)))
            self.contexts.append(twin)
            self.frontend.step([], copies)

    @precondition(lambda self: self.contexts)
    @rule(data=st.data())
    def swap(self, data: st.DataObject) -> None:
        context = data.draw(st.sampled_from(self.contexts))
        if self.room(4 * len(context.frames)):
            self.frontend.step([], self.frontend.swap(context, range(30)))

    @precondition(lambda self: self.contexts)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        context = self.contexts.pop(data.draw(st.integers(0, len(self.contexts) - 1)))
        self.frontend.give(context.frames)


DEVICES = {
    "torch": lambda: TorchDevice(checkpoint(None, 16), name="torch", frames=20, page_slots=16, dtype="fp32", threads=1),
    "reference": lambda: ReferenceDevice(checkpoint(None, 16), name="reference", frames=20, page_slots=16),
    "native": lambda: NativeDevice(compiled(), checkpoint(None, 16), name="native", frames=20, page_slots=16, threads=2),
}


@pytest.mark.parametrize("wrong", [0, 2, 5])
@pytest.mark.parametrize("how", HOWS, ids=["greedy", "penalty", "filters"])
@pytest.mark.parametrize("kind", DEVICES)
def test_guesses_are_judged_by_what_decoding_one_at_a_time_says(kind: str, how: Sampling, wrong: int) -> None:
    """Up to the first wrong one, whatever comes after it; with the log-probabilities, and beside another row."""
    device = DEVICES[kind]()
    try:
        assert (device.geometry.guess_cost > 0) == (kind == "native"), "only where a row's numbers do not depend on its length"
        frontend, prompt = Frontend(device), [token % VOCABULARY for token in range(3, 60, 5)]
        (said,) = frontend.generate([Context(list(prompt))], 6, how)
        context, other = Context(list(prompt)), Context(prompt[:4])
        guesses = [*said[:wrong], (said[wrong] + 1) % VOCABULARY, *said[wrong + 1 : 5]][:5]
        outcome = frontend.step([frontend.row(other, sampling=None), frontend.guess(context, guesses, how)])
        assert [len(tokens) for tokens in outcome.tokens] == [0, 6]
        assert outcome.tokens[1][: wrong + 1] == tuple(said[: wrong + 1])
        assert [len(logs) for logs in outcome.logprobs] == ([0, 6] if how.logprobs else [])
    finally:
        device.close()


@pytest.mark.parametrize("changes", [{"guesses": 3}, {"guesses": -1}, {"guesses": 1, "sampling": None}, {"guesses": 1, "store": False}])
def test_a_row_that_cannot_hold_guesses_is_refused(changes: dict[str, Any]) -> None:
    row = replace(Row(1, (1, 2, 3), 0, (0,), sampling=WATCHED), **changes)
    for kind in DEVICES:
        device = DEVICES[kind]()
        with pytest.raises(DeviceFailed, match="guesses"):
            device.execute(Step(1, (row,)))
        device.close()


class NativeMachine(Machine):
    devices = staticmethod(native_and_reference)


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "SNAPSHOT_NUMBERS", 0)
    monkeypatch.setattr(attention, "GROUP_NUMBERS", 16)
    monkeypatch.setattr(attention, "RECENT_TOKENS", 8)


TestDevicesAgree = Machine.TestCase
TestDevicesAgree.settings = settings(max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))

TestNativeAgrees = NativeMachine.TestCase
TestNativeAgrees.settings = TestDevicesAgree.settings


@pytest.mark.parametrize("allowed", [[7], [3, 46, 47], range(1, VOCABULARY, 2), range(VOCABULARY)], ids=["one", "three", "odd", "all"])
@pytest.mark.parametrize("how", [*HOWS, Sampling(temperature=1.0, min_p=0.2), Sampling(temperature=2.0, top_k=2)])
@pytest.mark.parametrize("kind", DEVICES)
def test_what_a_mask_forbids_is_never_sampled(kind: str, how: Sampling, allowed: Sequence[int]) -> None:
    """The token is what the torch sampler makes of the device's own logits; log-probabilities are those without a mask."""
    device = DEVICES[kind]()
    try:
        frontend, prompt = Frontend(device), [token % VOCABULARY for token in range(3, 60, 5)]
        context = Context(list(prompt))
        for _ in range(8):
            row = frontend.row(context, sampling=how)
            masked = replace(row, grammar=Rule(lambda said: allowed, VOCABULARY))
            outcome = frontend.step([masked])
            ((token,),) = outcome.tokens
            assert token in allowed
            if isinstance(device, NativeDevice):
                logits = torch.from_numpy(device.logits([replace(row, store=False)]))
                assert sample(logits, [replace(row, masks=(bits(allowed, VOCABULARY),))])[0] == [token]
            if how.logprobs:
                unmasked = device.execute(Step(99, (replace(row, store=False),)))
                values = [[value for _, value in each.logprobs[0][0].top] for each in (outcome, unmasked)]
                assert values[0] == pytest.approx(values[1], abs=1e-5)
                assert outcome.logprobs[0][0].chosen <= outcome.logprobs[0][0].top[0][1]
            if len(allowed) == VOCABULARY:
                assert outcome.tokens == device.execute(Step(99, (replace(row, store=False),))).tokens
            context.tokens.append(token)
    finally:
        device.close()


@pytest.mark.parametrize("kind", DEVICES)
def test_late_and_broken_grammars_leave_the_rest_of_a_batch_alone(kind: str) -> None:
    device = DEVICES[kind]()
    try:
        frontend = Frontend(device)
        late, broken = (Rule(lambda said: [5], VOCABULARY) for _ in range(2))
        late.late, broken.broken = 1, "too large"
        rows = [frontend.row(Context([1, 2, n]), sampling=WATCHED) for n in range(4)]
        alone = [device.execute(Step(1, (row,))) for row in rows]
        rows[1], rows[2] = replace(rows[1], grammar=late), replace(rows[2], grammar=broken)
        outcome = device.execute(Step(2, tuple(rows)))
        assert [len(tokens) for tokens in outcome.tokens] == [1, 0, 0, 1]
        assert outcome.refused == ((2, "too large"),)
        assert outcome.tokens[0] == alone[0].tokens[0]
        assert outcome.tokens[3] == alone[3].tokens[0]
        if device.geometry.batch_invariant:
            assert [outcome.logprobs[n] for n in (0, 3)] == [alone[n].logprobs[0] for n in (0, 3)], "bit for bit"
        again = device.execute(Step(3, (rows[1], rows[0])))
        assert again.tokens == ((5,), alone[0].tokens[0])
        with pytest.raises(DeviceFailed, match="do not fit"):
            device.execute(Step(4, (replace(rows[0], grammar=Rule(lambda said: [5], 20)),)))
    finally:
        device.close()
