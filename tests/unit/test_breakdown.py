"""benchmarks/breakdown.py: what a step is said to need at least, and that the driver's own clock adds up."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest
from native import config, device, random_weights

from llmos.drivers.cpu.native import PARTS
from llmos.kernel.device import Row, Sampling, Step
from llmos.kernel.errno import DeviceFailed

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SHAPE = config(layers=3, width=64, heads=4, kv_heads=2, head_width=16, ffn_width=96, vocabulary=500)
MATRICES = {"qkv": 128 * 64, "output": 64 * 64, "gate_up": 192 * 64, "down": 64 * 96, "head": 500 * 64}
"""Numbers of each of a layer, and of the head."""


@pytest.fixture
def breakdown(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    import breakdown

    yield breakdown
    for name in set(sys.modules) - before:
        if (BENCHMARKS / f"{name.partition('.')[0]}.py").exists() or name.partition(".")[0] == "peers":
            del sys.modules[name]


@pytest.fixture
def native():
    one = device(SHAPE, random_weights(SHAPE), frames=8)
    yield one
    one.close()


def tokens(count, seed=0):
    return tuple(np.random.default_rng(seed).integers(0, SHAPE.vocabulary, count).tolist())


def mixed(number=1):
    """A chunk of 20 tokens that wants none, and two forks of another context of 17: they have its first page in common."""
    sampled = [Row(burst, tokens(1), 16, (2, 3 + burst), sampling=Sampling()) for burst in (1, 2)]
    return Step(number, (Row(0, tokens(20), 0, (0, 1)), *sampled))


def test_laps_are_all_of_a_step_and_no_more(native):
    before = native.laps()
    begin = time.perf_counter()
    for number in range(20):
        native.execute(mixed(number))
    wall = time.perf_counter() - begin
    spent = {part: seconds - before[part] for part, seconds in native.laps().items()}
    assert tuple(spent) == PARTS
    assert all(seconds > 0 for seconds in spent.values())
    assert sum(spent.values()) < wall


def test_without_a_pick_the_head_computes_nothing(native):
    native.execute(mixed())
    before = native.laps()
    native.execute(Step(2, (Row(0, tokens(20), 0, (0, 1)),)))
    after = native.laps()
    assert after["head"] - before["head"] < (after["gate_up"] - before["gate_up"]) / 2


def test_a_closed_device_has_no_laps():
    one = device(SHAPE, random_weights(SHAPE))
    one.close()
    with pytest.raises(DeviceFailed, match="closed"):
        one.laps()


def test_what_a_step_demands(breakdown, native):
    demand = breakdown.Demand()
    demand.add(mixed(), native, SHAPE, "bf16")
    assert (demand.steps, demand.tokens) == (1, 22)
    for part, numbers in MATRICES.items():
        rows, layers = (2, 1) if part == "head" else (22, 3)
        assert demand.work[part] == [(2.0 * layers * numbers, 2.0 * rows * layers * numbers)], part
    seen = sum(range(1, 21)) + 2 * 17
    assert demand.work["attention"] == [(5 * native.geometry.page_bytes, 4.0 * 3 * 4 * 16 * seen)], "five pages, one of them read for two"
    assert demand.work["rest"] == []


def test_guesses_want_logits_and_steps_without_a_pick_none(breakdown, native):
    demand = breakdown.Demand()
    demand.add(Step(1, (Row(0, tokens(4), 0, (0,), sampling=Sampling(), guesses=3),)), native, SHAPE, "int8")
    demand.add(Step(2, (Row(0, tokens(4), 0, (0,)),)), native, SHAPE, "int8")
    assert demand.work["head"] == [(MATRICES["head"], 2.0 * 4 * MATRICES["head"])]
    assert len(demand.work["qkv"]) == 2


@pytest.mark.parametrize(("rows", "seconds"), [(1, 2.0), (500, 4.0)])
def test_the_least_is_by_memory_or_by_products_whichever_is_longer(breakdown, rows, seconds):
    """20 GB at 10 GB/s take two seconds; 500 times the operations of one row pass them."""
    demand = breakdown.Demand(work={"down": [(20e9, rows * 8e9)] * 2})
    ceilings = breakdown.Ceilings(read=10.0, bf16=1000.0, int8=4000.0)
    assert demand.least("down", ceilings, "bf16") == pytest.approx(2 * seconds)


def test_the_table_adds_up(breakdown):
    spent = {"qkv": 1.0, "head": 2.0, "rest": 0.5, "outside": 0.5}
    run = breakdown.Run("W2", 4.0, spent, {"qkv": 0.5, "head": 1.0, "rest": 0.0}, 10, 320, breakdown.Ceilings(20.0, 3000.0, 6000.0))
    lines = breakdown.table(run).splitlines()
    assert "10 steps of 32.0 tokens" in lines[0]
    assert lines[2].split() == ["qkv", "1.00", "25%", "0.50", "50%"]
    assert lines[4].split() == ["rest", "0.50", "12%"]
    assert lines[-1].split() == ["all", "4.00", "100%", "1.50", "38%"]


@pytest.mark.parametrize(("arguments", "says"), [(["--repeats", "0"], "at least 1 repeat"), (["--workloads", "W2,W9"], "no workload W9")])
def test_what_cannot_be_measured_is_refused(breakdown, monkeypatch, capsys, arguments, says):
    monkeypatch.setattr("sys.argv", ["breakdown.py", *arguments])
    with pytest.raises(SystemExit, match="2"):
        breakdown.main()
    assert says in capsys.readouterr().err
