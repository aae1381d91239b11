"""Decode attention in Triton: its split plans, its checks, its values under the interpreter, and its needs when compiled for real GPUs.

Interpreter or compiler is chosen when a function is decorated, so each of the last two has a process of its own.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest

pytest.importorskip("torch")

import torch
from hypothesis import given, settings, strategies as st

from llmos.drivers.triton.splits import RESIDENT, SplitPlan, plan_splits
from llmos.kernel.errno import InvalidArgument, NotSupported

pytest.importorskip("triton", reason="the extra `gpu` is not installed")

import triton

from llmos.drivers.triton.decode_attention import HeadShape, decode_attention, prepare
from llmos.drivers.triton.resources import BLOCK_SHARED, MODELS

patient = pytest.mark.timeout(300)  # 5 to 20 s on two idle cores, compiled code not yet cached
ROOT = Path(__file__).parents[2]


def run(*arguments: str, **variables: str) -> str:
    """Run Python on the same modules as this process, with more environment variables."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "2", **variables}
    answer = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


@patient
def test_values_under_the_interpreter() -> None:
    if triton.__version__.startswith("3.6.") and not numpy.__version__.startswith(("1.", "2.0", "2.1", "2.2", "2.3")):
        pytest.skip("Triton 3.6's interpreter does not run with NumPy 2.4")
    cases = str(Path(__file__).with_name("triton_attention_cases.py"))
    lenient = "ignore:Conversion of an array with ndim:DeprecationWarning"  # Triton 3.6 with NumPy before 2.4
    run("-m", "pytest", cases, "-q", "-p", "no:cacheprovider", "-o", "pythonpath=", "-W", lenient, TRITON_INTERPRET="1")


def needs(*arguments: str) -> list[dict[str, Any]]:
    """What the functions need, compiled in a process that has no interpreter."""
    found: list[dict[str, Any]] = json.loads(run("-m", "llmos.drivers.triton.resources", "--json", *arguments))
    return found


@patient
def test_needs_of_the_compiled_functions() -> None:
    """For the models we name on sm_80, sm_90 and sm_100: nothing spills, a block fits, two run at once, and tiles are read ahead."""
    found = needs("--page", "64")
    assert {(resources["function"], resources["target"]) for resources in found} == {
        (name, target) for name in ("attend", "merge") for target in (80, 90, 100)
    }
    for resources in found:
        assert resources["local"] == 0, resources
        assert resources["shared"] <= BLOCK_SHARED[resources["target"]], resources
        assert resources["resident"] >= RESIDENT, resources
        if resources["function"] == "attend":
            # Two buffers of K and V: with fewer, the loop waits for memory at every tile.
            shape = HeadShape(*MODELS[resources["model"]], 64, torch.bfloat16)
            assert resources["shared"] >= 4 * shape.tile * shape.width * 2, resources


@patient
def test_needs_with_float32_kv() -> None:
    for resources in needs("--target", "80", "--model", "Qwen3-0.6B", "--page", "64", "--kv", "fp32"):
        assert resources["local"] == 0, resources
        assert resources["shared"] <= BLOCK_SHARED[80], resources
        assert resources["resident"] >= RESIDENT, resources


def check_covers(plan: SplitPlan, lengths: list[int], window: int | None, tile: int) -> None:
    """The items of each row are its tokens, each once, cut at tiles; partial results are numbered as the merges say."""
    merges = {row: range(first, first + count) for row, first, count in plan.merges.tolist()}
    for row, length in enumerate(lengths):
        items = sorted((item for item in plan.work.tolist() if item[0] == row), key=lambda item: item[1])
        assert items[0][1] == (max(0, length - window) if window else 0)
        assert items[-1][2] == length
        for before, after in itertools.pairwise(items):
            assert before[2] == after[1]
            assert after[1] % tile == 0
            assert before[1] < before[2]
        if len(items) == 1:
            assert items[0][3] == -1
            assert row not in merges
        else:
            assert [item[3] for item in items] == list(merges[row])
    assert sorted(partial for partials in merges.values() for partial in partials) == list(range(plan.partials))


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.one_of(st.integers(0, 100), st.integers(0, 200_000)), min_size=1, max_size=64),
    kv_heads=st.sampled_from([1, 3, 8, 32]),
    tile=st.sampled_from([16, 32, 64]),
    processors=st.sampled_from([1, 108, 132]),
    window=st.one_of(st.none(), st.integers(1, 5000)),
    split_tokens=st.one_of(st.none(), st.integers(64, 5000)),
)
def test_a_plan_covers_each_token_once(
    lengths: list[int], kv_heads: int, tile: int, processors: int, window: int | None, split_tokens: int | None
) -> None:
    plan = plan_splits(lengths, kv_heads=kv_heads, tile=tile, processors=processors, window=window, split_tokens=split_tokens)
    check_covers(plan, lengths, window, tile)
    assert plan.rows == len(lengths)
    assert plan.longest == max(lengths)
    if split_tokens is None:
        assert len(plan.work) * kv_heads <= RESIDENT * processors + len(lengths) * kv_heads


def test_one_long_context_fills_the_gpu() -> None:
    """32k tokens, 8 KV heads, 132 processors: 33 splits of a row, not 8 or 16."""
    plan = plan_splits([32768], kv_heads=8, tile=64, processors=132)
    assert plan.partials == 33
    assert len(plan.work) * 8 == RESIDENT * 132
    sizes = plan.work[:, 2] - plan.work[:, 1]
    assert sizes.max() - sizes.min() <= 64


def test_a_full_batch_needs_no_merge() -> None:
    plan = plan_splits([4000] * 64, kv_heads=8, tile=64, processors=132)
    assert plan.partials == 0
    assert plan.merges.shape == (0, 3)


def test_the_one_long_row_of_a_batch_is_cut() -> None:
    plan = plan_splits([100] * 63 + [60_000], kv_heads=8, tile=64, processors=132)
    assert plan.merges[:, 0].tolist() == [63]
    assert plan.merges[0, 2] > 16


@pytest.mark.parametrize(
    "wrong",
    [{"lengths": []}, {"lengths": [5, -1]}, {"window": 0}, {"split_tokens": 0}, {"tile": 0}, {"kv_heads": 0}, {"processors": 0}],
    ids=str,
)
def test_plan_refuses(wrong: dict[str, object]) -> None:
    arguments = {"lengths": [5], "kv_heads": 1, "tile": 16, "processors": 4} | wrong
    with pytest.raises(InvalidArgument, match="give"):
        plan_splits(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [(9, 2, 64, 16), (0, 1, 64, 16), (4, 0, 64, 16), (4, 4, 8, 16), (4, 4, 264, 16), (4, 4, 20, 16), (4, 4, 64, 8), (4, 4, 64, 48)],
    ids=str,
)
def test_shape_refuses(wrong: tuple[int, int, int, int]) -> None:
    with pytest.raises(NotSupported):
        HeadShape(*wrong, torch.bfloat16)
    with pytest.raises(NotSupported, match="bfloat16"):
        HeadShape(4, 4, 64, 16, torch.float64)


@pytest.mark.parametrize("wrong", ["query", "query stride", "out", "pool", "pool type", "layer", "frames", "frames type", "too few pages"])
def test_call_refuses_what_does_not_fit(wrong: str) -> None:
    shape = HeadShape(4, 2, 32, 16, torch.float32)
    workspace = prepare(plan_splits([40, 3], kv_heads=2, tile=16, processors=4), shape, torch.device("cpu"))
    query, out, layer = torch.zeros(2, 4, 32), torch.zeros(2, 4, 32), 0
    pool, frames = torch.zeros(5, 1, 2, 16, 2, 32), torch.zeros(2, 3, dtype=torch.int32)
    match wrong:
        case "query":
            query = query[:1]
        case "query stride":
            query = torch.zeros(2, 32, 4).mT
        case "out":
            out = torch.zeros(4, 2, 32).transpose(0, 1)
        case "pool":
            pool = pool.transpose(3, 4)
        case "pool type":
            pool = pool.half()
        case "layer":
            layer = 1
        case "frames":
            frames = frames[:1]
        case "frames type":
            frames = frames.long()
        case "too few pages":
            frames = frames[:, :2]
    with pytest.raises(InvalidArgument):
        decode_attention(query, pool, layer, frames, workspace, out, scale=1.0)
