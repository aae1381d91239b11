"""Threads of the native driver: none uses a core while there is nothing to do, none outlives its model."""

from __future__ import annotations

import gc
import time
from pathlib import Path

import numpy as np
from native import config, device, random_weights
from tasks import begun_since, tasks

from llmos.kernel.device import Row, Sampling, Step

SHAPE = config(width=320, heads=4, kv_heads=2, head_width=64, ffn_width=640, vocabulary=500)
"""Large enough that every loop of a step wakes the threads."""


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def step(number: int, count: int = 60) -> Step:
    tokens = tuple(np.random.default_rng(number).integers(0, SHAPE.vocabulary, count).tolist())
    return Step(number, (Row(1, tokens, 0, (0, 1, 2, 3), sampling=Sampling()),))


def test_an_idle_device_uses_no_core() -> None:
    """Over 0.3 s after a step, all threads together: a spinning one would take all of it."""
    one = device(SHAPE, random_weights(SHAPE), threads=4)
    one.execute(step(1))
    time.sleep(0.02)  # they may spin for this long
    begun = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - begun < 0.03
    one.execute(step(2))
    one.close()


def test_a_closed_device_leaves_no_thread() -> None:
    before = tasks()
    one = device(SHAPE, random_weights(SHAPE), threads=6)
    assert len(begun_since(before, left=5)) == 5
    one.execute(step(1))
    one.close()
    assert not begun_since(before, left=0)


def test_many_devices_leave_neither_threads_nor_memory() -> None:
    """One has 11 MB of weights, laid out; closed at once, while the threads spin, and after they went to sleep."""
    weights = random_weights(SHAPE)
    sizes = []
    before = tasks()
    for number in range(24):
        one = device(SHAPE, weights, threads=3, frames=8)
        one.execute(step(number))
        if number % 4 == 0:
            time.sleep(0.01)
        one.close()
        gc.collect()
        sizes.append(resident())
    assert not begun_since(before, left=0)
    assert max(sizes[-4:]) - min(sizes[3:8]) < 8 << 20


def test_many_short_loops_all_end() -> None:
    """More threads than cores, thousands of loops, some begun while others go to sleep: every step gives the same."""
    one = device(SHAPE, random_weights(SHAPE), threads=5)
    first = [one.execute(step(number, 1)).tokens for number in range(40)]
    for pause in (0.0, 0.0001, 0.001):
        for number in range(40):
            time.sleep(pause)
            assert one.execute(step(number, 1)).tokens == first[number]
    one.close()
