"""The workloads against an engine that is not there: shapes, exact lengths, statistics, the report. No sleeping to speak of."""

import asyncio
import json
import random
import sys
from pathlib import Path
from typing import ClassVar

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in {"client", "workloads", "report", "run", "process", "peers"}:
            del sys.modules[name]


class Fake:
    """Answers at once with ids that count up; remembers what it was asked. `short` leaves tokens out."""

    streams_turns = True

    def __init__(self, short=0):
        self.short = short
        self.agents = []
        self.sampled = []

    async def agent(self, body, *, kind="normal"):
        session = FakeSession(self, kind)
        self.agents.append(session)
        return await body(session)

    async def samples(self, prompt, copies, length):
        self.sampled.append((len(prompt), copies, length))
        for _ in range(copies):
            yield list(range(length - self.short))


class FakeSession:
    def __init__(self, engine, kind):
        self.engine, self.kind, self.turns = engine, kind, []

    async def generate(self, tokens, length, *, more=False):
        self.turns.append((list(tokens), length, more))
        for token in range(length - self.engine.short):
            await asyncio.sleep(0)
            yield [token]


def run(name, sizes=None, engine=None, seed=1):
    from workloads import make

    engine = engine or Fake()
    return asyncio.run(make(name, sizes).run(engine, random.Random(seed))), engine


def test_single_reports_first_token_and_speed():
    figures, engine = run("W1")
    assert [(len(tokens), length, more) for tokens, length, more in engine.agents[0].turns] == [(128, 128, False)]
    assert 0 < figures["ttft_s"] < figures["total_s"]
    assert figures["decode_tokens_s"] > 0


def test_batch_asks_for_distinct_prompts():
    figures, engine = run("W2")
    prompts = [tuple(session.turns[0][0]) for session in engine.agents]
    assert len(prompts) == len(set(prompts)) == 32
    assert {(len(tokens), session.turns[0][1]) for tokens, session in zip(prompts, engine.agents, strict=True)} == {(256, 128)}
    assert figures["output_tokens_s"] == pytest.approx(32 * 128 / figures["wall_s"])


def test_shared_prefix_is_shared_and_the_rest_is_not():
    _, engine = run("W3")
    prompts = [session.turns[0][0] for session in engine.agents]
    assert len(prompts) == 32
    assert all(len(each) == 1024 + 64 and each[:1024] == prompts[0][:1024] for each in prompts)
    assert len({tuple(each[1024:]) for each in prompts}) == 32


def test_agents_take_turns_with_tools_between():
    figures, engine = run("W4", {"tool": 0.001})
    assert len(engine.agents) == 16
    for session in engine.agents:
        assert [(len(tokens), length) for tokens, length, _ in session.turns] == [(576, 48)] + [(64, 48)] * 4
        assert [more for _, _, more in session.turns] == [True] * 4 + [False]
        assert session.turns[0][0][:512] == engine.agents[0].turns[0][0][:512]
    assert figures["mean_completion_s"] <= figures["p95_completion_s"] <= figures["makespan_s"]
    assert figures["later_ttft_p50_s"] is not None


def test_agents_without_streaming_have_no_first_token():
    engine = Fake()
    engine.streams_turns = False
    figures, _ = run("W4", {"tool": 0.0, "agents": 2}, engine)
    assert figures["later_ttft_p50_s"] is None


def test_heavy_tailed_tools_keep_their_mean():
    from workloads import make

    agents = make("W4", {"tail": 3.0, "turns": 20001})
    pauses = agents.pauses(random.Random(5))
    assert sum(pauses) / len(pauses) == pytest.approx(0.5, rel=0.05)
    assert max(pauses) > 3
    assert make("W4").pauses(random.Random(5)) == [0.5] * 4


def test_mixed_counts_from_the_planned_arrival():
    figures, engine = run("W5", {"after": 0.0, "every": 0.001, "background": 3})
    kinds = [session.kind for session in engine.agents]
    assert kinds.count("background") == 3
    assert kinds.count("interactive") == 15
    assert figures["interactive_ttft_p50_s"] <= figures["interactive_total_p50_s"] <= figures["interactive_total_p95_s"]


def test_steady_restarts_its_background_and_compares_windows():
    sizes = {"background": 2, "background_output": 8, "settle": 0.01, "window": 0.1, "every": 0.02}
    figures, engine = run("W5S", sizes)
    kinds = [session.kind for session in engine.agents]
    assert kinds.count("interactive") == 5
    assert kinds.count("background") > 2
    assert figures["background_tokens_s"] > 0
    assert figures["background_quiet_tokens_s"] > 0
    assert figures["background_kept"] == pytest.approx(figures["background_tokens_s"] / figures["background_quiet_tokens_s"])


def test_fork_samples_all_copies():
    figures, engine = run("W6")
    assert engine.sampled == [(1024, 16, 64)]
    assert figures["output_tokens_s"] == pytest.approx(16 * 64 / figures["wall_s"])


@pytest.mark.parametrize("name", ["W1", "W2", "W4", "W6"])
def test_an_engine_that_stops_early_fails(name):
    from client import WrongLengthError

    with pytest.raises(WrongLengthError, match="asked for"):
        run(name, engine=Fake(short=1))


def test_same_seed_same_prompts():
    one, two = run("W2")[1], run("W2")[1]
    assert [session.turns for session in one.agents] == [session.turns for session in two.agents]
    assert run("W2", seed=2)[1].agents[0].turns != one.agents[0].turns


def test_prompts_avoid_special_tokens():
    from client import prompt

    ids = prompt(random.Random(3), 5000)
    assert min(ids) >= 1000
    assert max(ids) < 48000


def test_sizes_are_checked():
    from workloads import make

    assert make("W2", {"requests": 8.0}).requests == 8
    with pytest.raises(ValueError, match="no size 'request': it has requests, prompt, output"):
        make("W2", {"request": 8})
    with pytest.raises(ValueError, match="no workload 'W9': there are W1"):
        make("W9")


def test_percentile_is_nearest_rank():
    from client import percentile

    values = [float(value) for value in range(1, 21)]
    random.Random(1).shuffle(values)
    assert percentile(values, 50) == 10
    assert percentile(values, 95) == 19
    assert percentile(values, 100) == 20
    assert percentile([7.0], 1) == 7
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)
    for percent in (0, -1, 100.1):
        with pytest.raises(ValueError, match="percent is"):
            percentile(values, percent)


def test_spread_is_half_the_range_over_the_median():
    from client import spread

    assert spread([9.0, 10.0, 12.0]) == pytest.approx(0.15)
    assert spread([4.0]) == 0
    assert spread([0.0, 0.0]) == 0


def results():
    def record(*walls, error=None):
        runs = [{"wall_s": wall, "output_tokens_s": 100 / wall, "ttft_p50_s": None} for wall in walls]
        return {"runs": runs, "others_cores": [0.1] * len(runs), "error": error}

    engine = {"versions": {"python": "3.11.7"}, "cold_s": 1.0, "memory_mib": 500}
    return {
        "date": "2026-11-22T10:00:00+00:00",
        "commit": "abc",
        "machine": {"cpu": "a cpu", "cores": 2, "memory_gib": 23.0, "instructions": ["avx2"], "system": "Linux 6", "threads": 2},
        "engines": {
            "llmos": engine | {"title": "llmos"},
            "vllm": engine | {"title": "vLLM (CPU)"},
            "hf": engine | {"title": "transformers"},
        },
        "workloads": {
            "W2": {
                "sizes": {"requests": 8, "prompt": 256, "output": 128},
                "engines": {"llmos": record(9.0, 10.0, 12.0), "vllm": record(5.0), "hf": record(error="gone")},
            }
        },
    }


def test_report_says_who_wins_and_by_how_much(tmp_path):
    from report import align, heading, rows

    table = rows(results())
    assert table[1] == ["W2 many at once", "wall, s", "10 ±15%", "5 (once), 0.56x", "failed"]
    assert table[2][1:4] == ["output tokens/s ↑", "10 ±14%", "20 (once), 0.56x"]
    assert table[3][2:] == ["–", "–", "failed"]
    lines = align(table).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "Sizes changed: W2 requests=8." in heading(results())


def test_a_ratio_is_of_repeats_that_both_ran():
    """A machine that was slow in the first repeat must not look like an engine that ran in that one only."""
    from report import advantage
    from workloads import Metric

    wall, rate = Metric("wall_s", ""), Metric("tokens_s", "", lower_is_better=False)
    assert advantage([30.0, 10.0, 10.0], [60.0], wall) == 2
    assert advantage([30.0, 10.0, 10.0], [33.0, 12.0, 20.0], wall) == 1.2
    assert advantage([10.0, 30.0], [5.0, 10.0], rate) == 2.5
    assert advantage([1.0], [], wall) is None


def test_report_writes_beside_the_figures(tmp_path):
    from report import write_report

    file = tmp_path / "r.json"
    file.write_text(json.dumps(results()))
    text = write_report(file)
    assert "W2 many at once" in text
    assert (tmp_path / "r.md").read_text().startswith("2026-11-22, commit abc.")


def test_catalogue_names_modules_that_are_there(tmp_path):
    from peers.catalogue import CATALOGUE

    for name, peer in CATALOGUE.items():
        assert (BENCHMARKS / (peer.module.replace(".", "/") + ".py")).is_file(), name
        assert f"class {peer.adapter}" in (BENCHMARKS / (peer.module.replace(".", "/") + ".py")).read_text()
        if name not in {"llmos"}:
            assert peer.interpreter(tmp_path) is None


class FakeWorker:
    """A worker that knows France; the one called vllm fails its second run."""

    started: ClassVar[list[str]] = []

    def __init__(self, name, interpreter, environment, peers, options, log):
        self.name, self.runs, self.seeds = name, 0, []
        FakeWorker.started.append(name)

    def order(self, limit, *, do, **order):
        from process import WorkerError

        if do == "run":
            self.runs += 1
            if self.name == "vllm" and order["seed"] == "W2:1":
                raise WorkerError("out of memory")
            wall = {"llmos": 2.0, "vllm": 3.0}[self.name]
            return {"figures": {"wall_s": wall, "output_tokens_s": 100 / wall, "ttft_p50_s": 0.1}}
        return {"start": {"cold_s": 1.0, "versions": {"python": "3"}}, "answer": {"text": "Paris."}}.get(do, {})

    def pause(self): ...
    def resume(self): ...
    def close(self): ...

    def memory_mib(self):
        return 100.0

    def peak_mib(self, *, apart):
        return 50.0 if apart else 150.0

    def busy(self):
        return 0.0


def test_driver_takes_turns_and_records_failures(tmp_path, monkeypatch, capsys):
    import run
    from peers.catalogue import CATALOGUE, Peer

    FakeWorker.started.clear()
    monkeypatch.setattr(run, "Worker", FakeWorker)
    monkeypatch.setattr(Peer, "interpreter", lambda self, peers: None if self is CATALOGUE["hf"] else Path(sys.executable))
    given = ["run.py", "--engines", "llmos,vllm,hf", "--workloads", "W2", "--repeats", "3", "--set", "W2.requests=4"]
    monkeypatch.setattr(sys, "argv", [*given, "--out", str(tmp_path), "--name", "r", "--peers", str(tmp_path)])
    run.main()
    kept = json.loads((tmp_path / "r.json").read_text())
    assert list(kept["engines"]) == ["llmos", "vllm"]
    assert kept["workloads"]["W2"]["sizes"] == {"requests": 4, "prompt": 256, "output": 128}
    engines = kept["workloads"]["W2"]["engines"]
    assert [len(engines[name]["runs"]) for name in ("llmos", "vllm")] == [3, 1]
    assert engines["vllm"]["error"] == "out of memory"
    assert "1.50x" in (tmp_path / "r.md").read_text()
    said = capsys.readouterr()
    assert "hf: not installed (benchmarks/peers/install.sh hf)" in said.err
    assert "1.50x" in said.out


def test_driver_reads_names_and_values():
    from run import QUICK, chosen, pairs
    from workloads import make

    assert pairs(["W2.requests=8", "W2.output=4", "vllm.eager=1"]) == {"W2": {"requests": "8", "output": "4"}, "vllm": {"eager": "1"}}
    for wrong in ("W2", "W2.requests", "requests=8", ".=", "W2.=3"):
        with pytest.raises(SystemExit, match=r"NAME\.KEY=VALUE"):
            pairs([wrong])
    assert chosen("b,a", ["a", "b"], "engine") == ["b", "a"]
    with pytest.raises(SystemExit, match="no engine 'c': there are a, b"):
        chosen("c", ["a", "b"], "engine")
    for name, sizes in QUICK.items():
        make(name, sizes)
