"""benchmarks/cpu.py: what counts as a regression, which results are compared, what the table says, and that its functions run."""

import copy
import ctypes
import json
import sys
from pathlib import Path

import pytest
from native import CACHE, ISAS
from tiny import config_json

from llmos.drivers.config import config_from_hf
from llmos.drivers.cpu.compiler import compile_native

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
OWN = ("client", "workloads", "report", "run", "process", "peers", "progress", "compare", "cpu", "cpu_report", "roofline")


@pytest.fixture(autouse=True)
def path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in OWN:
            del sys.modules[name]


def engine(name, bits="bf16", weights="bf16", cold=1.0, peak=500):
    entry = {"title": f"{name}, {weights}" if bits != "bf16" else name, "engine": name, "bits": bits, "weights": weights, "kv": "bf16"}
    return entry | {
        "versions": {"python": "3.11"},
        "cold_s": cold,
        "memory_mib": 400,
        "peak_mib": peak,
        "answers": ["Paris", "5"],
        "known": 1,
    }


def point(seconds=(1e-3, 1e-3, 1e-3), read=10.0):
    """Bound by memory: one operation a byte."""
    ceilings = {"read": read, "bf16": 1000.0, "int8": 2000.0}
    name = {"function": "qkv", "format": "bf16", "size": "1 row"}
    return name | {"seconds": list(seconds), "bytes": 1e6, "operations": 1e6, "ceilings": ceilings}


def results(date="2026-11-22T10:00:00+00:00", **walls):
    """W2's wall times of engines: llmos and llama_cpp, or llmos_int8."""
    names = walls or {"llmos": [10.0, 10.0, 10.0], "llama_cpp": [20.0, 20.0, 20.0]}
    engines = {}
    for name in names:
        own, _, weights = name.partition("-")
        engines[name] = engine(own, "8-bit", weights) if weights else engine(own)
    return {
        "date": date,
        "commit": "abc",
        "machine": {"cpu": "a cpu", "cores": 2, "memory_gib": 23.0, "instructions": ["avx2"], "system": "Linux 6", "threads": 2},
        "engines": engines,
        "absent": {"vllm": "not installed (benchmarks/peers/install.sh vllm)"},
        "roofline": {
            "isa": "amx", "threads": 2, "others_cores": 0.0, "points": [point()],
            "ceilings": {"read": 12.0, "bf16": 1000.0, "int8": 2000.0},
        },
        "workloads": {
            "W2": {
                "sizes": {"requests": 32, "prompt": 256, "output": 128},
                "engines": {
                    name: {
                        "runs": [{"wall_s": wall, "output_tokens_s": 4096 / wall, "ttft_p50_s": 1.0} for wall in times],
                        "others_cores": [0.0],
                        "error": None,
                    }
                    for name, times in names.items()
                },
            }
        },
    }  # fmt: skip


def verdicts(before, after):
    from compare import changes

    return {each.what: each.verdict for each in changes(before, after) if each.verdict}


@pytest.mark.parametrize(
    ("before", "after", "lower", "verdict"),
    [
        ([100, 100, 100], [110, 110, 110], True, ""),  # at the least bound
        ([100, 100, 100], [111, 111, 111], True, "REGRESSION"),
        ([100, 100, 100], [91, 91, 91], True, ""),
        ([100, 100, 100], [90, 90, 90], True, "better"),
        ([100, 100, 100], [111, 111, 111], False, "better"),
        ([111, 111, 111], [100, 100, 100], False, "REGRESSION"),
        ([80, 100, 120], [119, 119, 119], True, ""),  # its spread is 20 per cent
        ([80, 100, 120], [121, 121, 121], True, "REGRESSION"),
        ([90, 100, 110], [108, 120, 132], True, ""),  # both spreads count: 10 and 10 per cent
        ([90, 100, 110], [109, 121, 133], True, "REGRESSION"),
        ([100], [125], True, ""),  # measured once
        ([100], [126], True, "REGRESSION"),
        ([100, 100], [126], True, "REGRESSION"),
        ([100, 100], [120], True, ""),
    ],
)
def test_a_regression_is_what_is_beyond_the_noise(before, after, lower, verdict):
    from compare import change

    assert change("it", before, after, ours=True, lower_is_better=lower).verdict == verdict


def test_only_our_rows_regress_and_nothing_is_made_of_nothing():
    from compare import change

    assert change("it", [1, 1], [2, 2], ours=False, lower_is_better=True).verdict == "slower"
    assert change("it", [2, 2], [1, 1], ours=False, lower_is_better=True).verdict == "faster"
    assert change("it", [], [1], ours=True, lower_is_better=True) is None
    assert change("it", [0.0], [1.0], ours=True, lower_is_better=True) is None


def test_comparing_results():
    assert verdicts(results(), results()) == {}
    slower = results(llmos=[12.0, 12.0, 12.0], llama_cpp=[30.0, 30.0, 30.0])
    assert verdicts(results(), slower) == {
        "llmos: W2 wall, s": "REGRESSION", "llmos: W2 output tokens/s": "REGRESSION",
        "llama_cpp: W2 wall, s": "slower", "llama_cpp: W2 output tokens/s": "slower",
    }  # fmt: skip
    other_sizes = copy.deepcopy(slower)
    other_sizes["workloads"]["W2"]["sizes"]["requests"] = 8
    assert verdicts(results(), other_sizes) == {}
    failed = copy.deepcopy(slower)
    failed["workloads"]["W2"]["engines"]["llmos"]["runs"] = []
    assert set(verdicts(results(), failed)) == {"llama_cpp: W2 wall, s", "llama_cpp: W2 output tokens/s"}


def test_a_machine_that_others_used_is_given_its_due():
    slower = results(llmos=[14.0, 14.0, 14.0])
    slower["roofline"]["points"] = [point([1.4e-3] * 3)]
    assert len(verdicts(results(), slower)) == 3
    busy = copy.deepcopy(slower)
    busy["workloads"]["W2"]["engines"]["llmos"]["others_cores"] = [0.8, 0.8, 0.8]  # of two
    busy["roofline"]["others_cores"] = 0.8
    assert verdicts(results(), busy) == {}
    from compare import describe, taken

    assert "quiet machine" in describe(results(), busy, everything=False)[0]
    assert "quiet machine" not in describe(results(), slower, everything=False)[0]
    assert (taken(busy, 0.0, 0.0), taken(busy, 0.2, 1.0)) == (0.0, 1.0)


def test_comparing_what_engines_hold():
    heavier = results()
    heavier["engines"]["llmos"] |= {"cold_s": 1.3, "peak_mib": 700}
    assert verdicts(results(), heavier) == {"llmos: cold start, s": "REGRESSION", "llmos: peak memory, MiB": "REGRESSION"}
    heavier["workloads"]["W2"]["sizes"]["requests"] = 8  # other work, other memory
    assert set(verdicts(results(), heavier)) == {"llmos: cold start, s"}


def test_comparing_functions_by_their_share_of_the_ceiling():
    slow_machine, slow_function, other = results(), results(), results()
    slow_machine["roofline"]["points"] = [point([2e-3] * 3, read=5.0)]
    slow_function["roofline"]["points"] = [point([2e-3] * 3)]
    other["roofline"] |= {"isa": "avx512", "points": [point([2e-3] * 3)]}
    assert verdicts(results(), slow_machine) == {}
    assert verdicts(results(), slow_function) == {"qkv bf16, 1 row: share of the ceiling": "REGRESSION"}
    assert verdicts(results(), other) == {}
    del slow_function["roofline"]
    assert verdicts(results(), slow_function) == {}


def write(folder, name, found):
    file = folder / f"{name}.json"
    file.write_text(json.dumps(found))
    return file


def test_compare_on_the_command_line(tmp_path, capsys):
    import cpu

    a, b = write(tmp_path, "a", results()), write(tmp_path, "b", results(llmos=[12.0, 12.0, 12.0], llama_cpp=[20.0, 20.0, 20.0]))
    assert cpu.main(["--compare", str(a), str(b), "--fail"]) == 1
    said = capsys.readouterr().out
    assert "2 REGRESSIONS" in said
    assert "llama_cpp: W2 wall, s" in said  # all rows are shown
    assert cpu.main(["--compare", str(a), str(b)]) == 0
    assert cpu.main(["--compare", str(b), str(a), "--fail"]) == 0
    assert "no regression" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"machine": 1}'])
def test_what_is_no_result_is_refused(tmp_path, text):
    from compare import load

    (tmp_path / "x.json").write_text(text)
    with pytest.raises(SystemExit, match="no result"):
        load(tmp_path / "x.json")
    with pytest.raises(SystemExit, match="no result"):
        load(tmp_path / "none.json")
    old = results()
    del old["engines"]["llmos"]["engine"]  # as run.py wrote them before there were variants
    with pytest.raises(SystemExit, match="do not say what they are"):
        load(write(tmp_path, "old", old))


def test_the_newest_earlier_result_of_this_kind_of_machine(tmp_path):
    from compare import newest_before

    now = results("2026-11-22T12:00:00+00:00")
    file = write(tmp_path, "now", now)
    assert newest_before(file, now) is None
    other = results("2026-11-22T11:30:00+00:00")
    other["machine"]["cpu"] = "another"
    write(tmp_path, "other", other)
    write(tmp_path, "later", results("2026-11-22T13:00:00+00:00"))
    assert newest_before(file, now) is None
    for name, date in (("z-old", "2026-11-21T10:00:00+00:00"), ("a-new", "2026-11-22T11:00:00+00:00")):
        write(tmp_path, name, results(date))
    assert newest_before(file, now)["date"] == "2026-11-22T11:00:00+00:00"


def test_the_table_compares_like_with_like_and_then_the_best():
    from cpu_report import report_text, rows

    found = results(**{
        "llmos": [10.0, 10.0], "llama_cpp": [20.0, 20.0], "llmos-int8": [5.0, 5.0], "llama_cpp-Q8_0": [4.0, 4.0],
    })  # fmt: skip
    table = rows(found)
    assert table[0] == ["engine", "weights", "KV", "knows", "W2 wall, s", "cold start, s", "peak, MiB"]
    assert {row[3] for row in table[1:]} == {"", "1 of 2"}
    assert [row[:3] + row[4:5] for row in table[1:]] == [
        ["**bf16**", "", "", ""],
        ["llmos", "bf16", "bf16", "10 ±0%"],
        ["llama_cpp", "bf16", "bf16", "20 ±0%, 2.00x"],
        ["**8-bit**", "", "", ""],
        ["llmos", "int8", "bf16", "5 ±0%"],
        ["llama_cpp", "Q8_0", "bf16", "4 ±0%, 0.80x"],
        ["**best of each**", "", "", ""],
        ["llmos", "", "", "5 (int8)"],
        ["llama_cpp", "", "", "4 (Q8_0), 0.80x"],
    ]
    text = report_text(found)
    assert "- vllm: not installed" in text
    assert "| qkv      | bf16    | 1 row | 1000 ±0% | 1    | 1       | 10      | 10%   |" in text


def test_report_and_chart_lie_beside_the_figures(tmp_path):
    from cpu_report import write_cpu_report

    file = write(tmp_path, "r", results())
    assert "figures: " in write_cpu_report(file)
    assert "![roofline](r.png)" in (tmp_path / "r.md").read_text()
    assert (tmp_path / "r.png").read_bytes()[:4] == b"\x89PNG"


def test_variants_are_engines_with_weights():
    from peers.catalogue import CATALOGUE
    from peers.variants import BITS, VARIANTS

    assert {variant.engine for variant in VARIANTS.values()} == set(CATALOGUE)
    for name, variant in VARIANTS.items():
        assert variant.bits in BITS
        assert name.partition("-")[0] == variant.engine
        assert (variant.bits == "bf16") == (variant.weights == "bf16") == (name == variant.engine)
    assert VARIANTS["llama_cpp-q8_0"].interpreter(Path("/nowhere")) is None


def test_what_is_missing_is_a_line_and_a_gap(tmp_path, capsys):
    import cpu

    given = ["--engines", "vllm,openvino", "--workloads", "W1", "--no-roofline", "--out", str(tmp_path), "--peers", str(tmp_path)]
    assert cpu.main([*given, "--name", "r", "--json"]) == 0
    said = capsys.readouterr()
    kept = json.loads((tmp_path / "r.json").read_text())
    assert json.loads(said.out) == kept
    assert kept["absent"] == {
        "vllm": "not installed (benchmarks/peers/install.sh vllm)",
        "openvino": "not installed (benchmarks/peers/install.sh openvino)",
    }
    assert "vllm: not installed (benchmarks/peers/install.sh vllm)" in said.err
    assert "no earlier result" in said.err


@pytest.mark.parametrize(
    ("name", "said", "measured"),
    [
        ("vllm", ["Paris.", "5", "no"], True),
        ("vllm", ["Lyon.", "4", "Tokyo"], False),  # bf16 loses nothing: it must know
        ("llama_cpp-q4_1", ["Lyon", "It is 4.", "no"], True),
        ("llama_cpp-q4_1", ["L L L", "5", "no"], False),
    ],
)
def test_who_knows_nothing_is_not_measured(tmp_path, monkeypatch, name, said, measured):
    import cpu
    import run
    from peers.variants import Variant

    class Knows:
        def __init__(self, *given):
            self.answers = iter(said)

        def order(self, limit, *, do, **order):
            return {"cold_s": 1.0, "versions": {}, "text": next(self.answers) if do == "answer" else ""}

        def pause(self): ...
        def close(self): ...

    monkeypatch.setattr(run, "Worker", Knows)
    monkeypatch.setattr(Variant, "interpreter", lambda self, peers: Path(sys.executable))
    bench = run.Bench(cpu.parse(["--out", str(tmp_path), "--name", "r"]), {}, {})
    assert bench.start(name) == measured
    assert (name in bench.results["engines"]) == measured == (name not in bench.results["absent"])


def test_what_is_asked_for(tmp_path, monkeypatch):
    import cpu
    from peers.variants import VARIANTS

    def asked(*given):
        found = cpu.parse(given)
        return cpu.engines_of(found), cpu.workloads_of(found)

    engines, workloads = asked()
    assert set(VARIANTS) - set(engines) == {"hf_generate"}
    assert workloads == ["W1", "W2", "W3", "W4", "W5", "W6"]
    engines, workloads = asked("--quick")
    assert {VARIANTS[name].engine for name in engines} == {"llmos"}
    assert workloads == ["W1", "W2", "W6"]
    assert asked("--engines", "vllm", "--workloads", "W5S") == (["vllm"], ["W5S"])
    assert asked("--engines", "none")[0] == []
    with pytest.raises(SystemExit, match="no engine 'x'"):
        asked("--engines", "x")
    monkeypatch.setattr(cpu, "commit", lambda: "abc with changes")
    first = cpu.free_name(tmp_path, quick=True)
    assert first.endswith("-abc-changed-quick")
    (tmp_path / f"{first}.json").touch()
    assert cpu.free_name(tmp_path, quick=True) == f"{first}-2"


def test_turns_begin_with_another_engine_each_time():
    from run import turns

    assert list(turns(["a", "b"], ["W1", "W2"], 2)) == [
        ("W1", "a", 0), ("W1", "b", 0), ("W2", "a", 0), ("W2", "b", 0),
        ("W1", "b", 1), ("W1", "a", 1), ("W2", "b", 1), ("W2", "a", 1),
    ]  # fmt: skip
    assert list(turns([], ["W1"], 3)) == []


def test_progress(monkeypatch):
    import progress

    monkeypatch.setattr(progress.time, "monotonic", iter([0.0, 30.0, 90.0]).__next__)
    bar = progress.Progress(4)
    assert str(bar) == f"[{'.' * 24}] 0/4"
    bar.step()
    assert str(bar) == f"[{'#' * 6}{'.' * 18}] 1/4, some 2 min left"
    bar.step(2)
    assert str(bar) == f"[{'#' * 18}{'.' * 6}] 3/4, some 30 s left"


def test_a_point_of_the_roofline():
    from roofline import Ceilings, Point, Roofline

    ceilings = Ceilings(read=10.0, bf16=1000.0, int8=2000.0)
    assert ceilings.at(2.0, "bf16") == 20.0
    assert ceilings.at(150.0, "bf16") == 1000.0
    assert ceilings.at(150.0, "w8a8") == 1500.0
    assert ceilings.at(150.0, "int8") == 1000.0
    one = Point("qkv", "bf16", "32 rows", (2e-3, 1e-3, 4e-3), 1e6, 4e6, ceilings)
    assert (one.gigabytes, one.gigaflops, one.intensity, one.at_most) == pytest.approx((0.5, 2.0, 4.0, 40.0))
    assert one.fractions == pytest.approx((0.05, 0.1, 0.025))
    assert one.name == "qkv bf16, 32 rows"
    whole = Roofline("amx", 2, 0.1, ceilings, (one,))
    assert Roofline.from_json(json.loads(json.dumps(whole.as_json()))) == whole


@pytest.mark.parametrize("isa", ISAS)
def test_functions_compile_for_every_instruction_set(isa):
    import roofline

    assert compile_native(CACHE, isa, source=str(roofline.SOURCE), extra=(f"-I{roofline.SOURCES}",)).isa == isa


@pytest.mark.skipif(not ISAS, reason="the native functions need AVX2")
def test_functions_run_alone(monkeypatch):
    import roofline

    monkeypatch.setattr(roofline, "WORKING_SET", 1 << 20)
    monkeypatch.setattr(roofline, "ROUNDS", 2)
    monkeypatch.setattr(roofline, "ROWS", (1, 5))
    config = config_from_hf(config_json())
    found = roofline.measure(CACHE, 2, config)
    shapes = roofline.matrices(config)
    names = [(each.function, each.format, each.size) for each in found.points if each.function != "attention"]
    assert names == [(name, weights, size) for weights in roofline.FORMATS for name in shapes for size in ("1 row", "5 rows")]
    assert sum(each.function == "attention" for each in found.points) == 4
    assert all(0 < second < 1 for each in found.points for second in each.seconds)
    assert all(each.ceilings.read <= found.ceilings.read for each in found.points)
    out, inputs = shapes["down"]
    few, many = (each for each in found.points if (each.function, each.format) == ("down", "bf16"))
    assert many.operations == 5 * few.operations == 10 * out * inputs
    assert many.bytes - few.bytes == 4 * (2 * inputs + 4 * out)
    assert few.bytes - (2 * inputs + 4 * out) >= 2 * out * inputs  # weights, padded
    bench = roofline.Bench(CACHE, 1)
    seconds = (ctypes.c_double * 2)()
    turns = [bench.functions.roofline_multiply(1, 0, count, 2, seconds) for count in (1000, 2000)]
    assert turns[1] == 2 * turns[0] > 0
