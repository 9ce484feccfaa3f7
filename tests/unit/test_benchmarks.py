"""The benchmark suite without any load: its jobs are complete, its verdicts honest, its report renders."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import io
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import report
from benchmarks.__main__ import kept
from benchmarks.figures import Figure, Goal, add, judge_all, quantile, spread, summary
from benchmarks.invented import VENDORS, batch_call, call, event
from benchmarks.jobs import JOBS, growth
from benchmarks.jobs.latency import of_events, waits
from benchmarks.jobs.memory import family, per_event
from benchmarks.measure import Context, in_turn
from benchmarks.peers.catalogue import LIMITS, PEERS, described
from benchmarks.peers.producer import AT_ONCE, produce_async
from benchmarks.processes import Failed
from benchmarks.relay import WEBHOOK_SECRET, destination, routing
from benchmarks.stub import Arrival, repeated
from benchmarks.stub_server import Counts, header
from pipeline.ledger.keys import Keys
from pipeline.routing_file import load_routing

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "benchmarks").rglob("*.py"))
OURS = Figure(job="X", contender="ours", metric="rate")
THEIRS = tuple(Figure(job="X", contender=name, metric="rate") for name in ("slow", "quick"))


def example() -> dict:
    """Results as a run stores them, of one job with two rounds."""
    figures: dict = {}
    for ours, celery in ((4000.0, 300.0), (4200.0, 290.0)):
        add(figures, "ours, single posts", {"deliveries_per_second": ours, "cpu_ms": 250.0, "others_cores": 0.0, "repeats": 0, "seconds": 3.9})
        add(figures, "celery", {"deliveries_per_second": celery, "cpu_ms": 3600.0, "others_cores": 0.4 if celery < 300 else 0.0, "repeats": 2, "seconds": 2.9})
    return report.finish(
        {
            "date": "2026-01-05 13:00 UTC",
            "machine": {
                "cores": 2,
                "processor": "Example",
                "memory_gib": 24.0,
                "kernel": "6.1",
                "python": "3.11.7",
                "load_before": 0.1,
                "server_allocator": "jemalloc",
                "sync_ms": 0.8,
            },
            "code": "abcdef012",
            "versions": {"celery": "5.7.0"},
            "quick": False,
            "rounds": 2,
            "seconds": 4.0,
            "took_minutes": 19.6,
            "ours": "as users run it.",
            "contenders": described(),
            "stubs": [
                {"kind": "nginx", "ceiling_per_second": 70_000, "cpu_us_per_call": 10.0},
                {"kind": "own", "ceiling_per_second": 9_000, "cpu_us_per_call": 80.0},
            ],
            "jobs": {
                "A": {"run": "2026-01-05 13:00 UTC", "figures": summary(figures), "notes": ["celery: a note."]},
                "G": {"run": "2026-01-05 13:00 UTC", "figures": {}, "notes": ["the job failed."]},
            },
            "notes": ["Not measured: B."],
        }
    )


def test_there_are_ten_jobs():
    """A to J, each under its letter."""
    assert "".join(sorted(JOBS)) == "ABCDEFGHIJ"


@pytest.mark.parametrize("letter", sorted(JOBS))
def test_every_job_names_whom_it_measures(letter):
    """Ours is among them, everybody else is described, no goal asks for a stranger, and the quick form leaves out none of ours that a goal is about."""
    job = JOBS[letter]
    strangers = {name.removesuffix(", everysec") for name in job.contenders if not name.startswith("ours")}
    assert job.contenders[0].startswith("ours")
    assert strangers <= set(described())
    assert set(job.left_out) <= set(job.contenders)
    assert job.goals
    for goal in job.goals:
        for figure in (goal.ours, *goal.against):
            assert figure.contender in JOBS[figure.job].contenders
        assert (goal.limit is None) != (not goal.against)


def test_job_a_has_every_peer_and_limit():
    """All queues and both loops are compared on the job that matters most."""
    assert set(PEERS) | {"bare asyncio loop", "bare libcurl loop"} <= set(JOBS["A"].contenders)
    assert set(LIMITS) <= set(JOBS["A"].contenders) | set(JOBS["B"].contenders)


def test_a_goal_is_held_against_the_best_of_the_others():
    """Ours 100 against 10 and 40 is 2.5 times the best, which is not three times."""
    jobs = {"X": {"figures": summary({"ours": {"rate": [90, 100, 400]}, "slow": {"rate": [10]}, "quick": {"rate": [40]}})}}
    verdict = Goal(text="", ours=OURS, against=THEIRS, factor=3).judge(jobs)
    assert (verdict.ours, verdict.theirs, verdict.ratio, verdict.is_met) == (100, 40, 2.5, False)
    assert Goal(text="", ours=OURS, against=THEIRS, factor=2.5).judge(jobs).is_met


def test_the_lowest_is_the_best_where_less_is_better():
    """Ours 30 ms against 20 and 100 is 1.5 times the best: within twice, not below."""
    jobs = {"X": {"figures": summary({"ours": {"rate": [30]}, "slow": {"rate": [100]}, "quick": {"rate": [20]}})}}
    assert Goal(text="", ours=OURS, against=THEIRS, factor=2, lower_is_better=True).judge(jobs).is_met
    assert not Goal(text="", ours=OURS, against=THEIRS, lower_is_better=True).judge(jobs).is_met


@pytest.mark.parametrize("missing", ["ours", "slow", "quick"])
def test_a_goal_with_a_figure_missing_is_not_met(missing):
    """Even if those that are there would meet it; a contender that the quick form leaves out on purpose is not missing."""
    figures = {"ours": {"rate": [100]}, "slow": {"rate": [10]}, "quick": {"rate": [10]}}
    del figures[missing]
    jobs = {"X": {"figures": summary(figures)}}
    goal = Goal(text="g", ours=OURS, against=THEIRS)
    assert judge_all([goal], jobs, ())[0] | {"ours": 0, "theirs": 0} == {"goal": "g", "ours": 0, "theirs": 0, "ratio": None, "met": False}
    assert goal.judge(jobs, left_out=[missing]).is_met is (missing != "ours")


def test_a_spread_is_median_lowest_and_highest():
    """Five digits are kept; no more was measured."""
    assert spread([3.0, 1.0, 2.000001]) == {"median": 2.0, "low": 1.0, "high": 3.0, "values": [3.0, 1.0, 2.0]}
    assert [quantile([1.0, 2.0, 3.0, 4.0], share) for share in (0.5, 0.99)] == [3.0, 4.0]


def test_the_report_renders_a_stored_example():
    """Machine, configuration, figures with their spread, ratios, noise, repeats and goals that were not measured are told."""
    text = report.page(example())
    assert (
        "2026-01-05 13:00 UTC, code of abcdef012, 2 cores (Example), 24.0 GiB, Linux 6.1, Python 3.11.7; 2 rounds of about 4 s (the shortest took 2.9) where rates are measured, 20 minutes in all;"
        in text
    )
    assert "nginx, which alone answers 70,000 posts/s at 10 µs of CPU each (B and G: the suite's own, which alone answers 9,000 posts/s" in text
    assert "| A | at least 20 x plain Celery with events, both taking events one by one | 4,100 | 295 | 13.90 | **no** |" in text
    assert "| A | at least 5 x the best Python queue, both taking events one by one | 4,100 | not measured | - | **no** |" in text
    assert "| ours, single posts | 4,100 (4,000 to 4,200) | 250 (250 to 250) |" in text
    assert "| celery ¹ | 295 (290 to 300) |" in text
    assert "celery: up to 2 deliveries more than wanted in a round." in text
    assert "- **celery**: a fan-out task for each event" in text
    assert "- celery: a note." in text
    assert "Nothing was measured.\n\n- the job failed." in text
    assert "## Of this run\n\n- Not measured: B." in text
    assert "make bench-quick" in text


def test_the_plot_is_a_picture_with_a_bar_for_each_contender():
    """Well-formed SVG; the longer bar is the larger figure."""
    root = ET.fromstring(report.plot(example()))
    widths = [float(bar.get("width")) for bar in root.iter("{http://www.w3.org/2000/svg}rect")][1:]
    assert len(widths) == 2
    assert widths[0] > widths[1]
    assert "ours, single posts" in "".join(root.itertext())


def test_figures_that_are_kept_say_of_when_they_are():
    """Jobs that are run again are not kept, and a quick run keeps nothing of a full one."""
    kept_a = {"run": "2026-01-05 13:00 UTC", "figures": {}, "notes": []}
    before = {"quick": False, "jobs": {"A": kept_a, "E": {**kept_a, "notes": ["a"]}}}
    assert kept(before, "E", is_quick=False) == {"A": kept_a}
    with pytest.raises(Failed, match="of the other form"):
        kept(before, "E", is_quick=True)
    results = example()
    results["jobs"]["A"]["run"] = "2026-01-04 13:00 UTC"
    assert "Measured in an earlier run, 2026-01-04 13:00 UTC." in report.page(report.finish(results))


def test_figures_of_two_runs_are_not_held_against_each_other():
    """The machine was another then, and the code may have been."""
    results = example()
    results["jobs"]["C"] = {"run": "2026-01-05 13:00 UTC", "figures": {"ours": {"requests_per_second": spread([1000.0])}}, "notes": []}
    results["jobs"]["D"] = {"run": "2026-01-05 13:00 UTC", "figures": {"ours": {"events_per_second": spread([3000.0])}}, "notes": []}
    assert report.finish(results)["jobs"]["D"]["goals"][0]["ratio"] == 3.0
    results["jobs"]["D"]["run"] = "2026-01-06 13:00 UTC"
    assert report.finish(results)["jobs"]["D"]["goals"][0]["ratio"] is None


def test_what_must_hold_in_every_round_is_judged_by_the_worst():
    """One withdrawal that is not told in one of three rounds."""
    (goal,) = (goal for goal in JOBS["F"].goals if goal.ours.metric == "told_share")
    for worst, is_met in ((1.0, True), (0.999, False)):
        assert goal.judge({"F": {"figures": {"ours": {"told_share": spread([1.0, worst, 1.0])}}}}).is_met is is_met


def test_contenders_take_turns_and_each_round_begins_with_another(tmp_path):
    """A round that fails is told of, and its contender keeps the figures of the others."""
    context, order = Context(folder=tmp_path, rounds=3, seconds=1.0, is_quick=False, say=lambda _: None), []

    def measure(name):
        order.append(name)
        if order.count("b") == 2 and name == "b":
            raise Failed("it fell over")
        return {"rate": float(len(order))}

    figures = in_turn(context, ("a", "b"), measure)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert figures == {"a": {"rate": [1.0, 4.0, 5.0]}, "b": {"rate": [2.0, 6.0]}}
    assert context.notes == ["b: a round failed (Failed: it fell over)"]


@pytest.mark.parametrize("rate", [0, 1000])
def test_a_producer_enqueues_all_at_once_unless_a_pace_is_asked_for(monkeypatch, capsys, rate):
    """What is enqueued one after the other waits for the disk each time; everything is enqueued once."""
    order = io.StringIO(json.dumps({"count": 100, "run": "r", "rate": rate}) + "\n\n")
    monkeypatch.setattr("sys.stdin", order)
    under_way, most, seen = 0, 0, []

    async def enqueue(one):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.0005)
        under_way -= 1
        seen.append(one["idempotency_key"])

    asyncio.run(produce_async(enqueue))
    ready, said = capsys.readouterr().out.splitlines()
    report_of = json.loads(said)
    assert (ready, len(set(seen)), len(seen), report_of["accepted"]) == ("ready", 100, 100, 100)
    assert most == (1 if rate else AT_ONCE)
    assert len(report_of["posted_at"]) == (100 if rate else 0)


def test_what_is_published_is_what_is_stored():
    """docs/benchmarks.md and its plot follow from benchmarks/results/latest.json; `python -m benchmarks render` writes them."""
    results = report.finish(report.stored())
    assert report.PAGE.read_text() == report.page(results)
    assert report.PLOT.read_text() == report.plot(results)
    assert results == report.stored()


def test_everybody_makes_the_same_calls_of_an_event():
    """A signed call with an id of its own for each vendor, and one call for many events."""
    one, two = event("r1", 1), event("r1", 2)
    calls = [call(one, vendor) for vendor in VENDORS]
    assert [headers["webhook-id"] for _, headers in calls] == ["r1-1.one", "r1-1.two", "r1-1.three"]
    assert all(re.fullmatch(r"v1,[A-Za-z0-9+/]{43}=", headers["webhook-signature"]) for _, headers in calls)
    assert batch_call([one, two], "one")[0].count(b'"event_id"') == 2


def test_the_stub_counts_calls_events_and_ids():
    """Events are counted in the body, so that a batch counts for all it carries."""
    counts = Counts()
    body, headers = batch_call([event("r1", 1), event("r1", 2)], "one")
    head = f"POST /one HTTP/1.1\r\nHost: x\r\nWebhook-Id: {headers['webhook-id']}".encode()
    counts.note(b"/one", head, body)
    assert (counts.calls, counts.events, counts.arrivals[0][1:]) == (1, 2, (b"/one", b"batch-r1-1.one"))
    assert header(head, b"content-length") == b""


def test_repeats_are_calls_with_the_same_id_on_the_same_path():
    """The same id at another vendor is none."""
    arrivals = [Arrival(1.0, "/one", "a"), Arrival(2.0, "/two", "a"), Arrival(3.0, "/one", "a"), Arrival(4.0, "/one", "a")]
    assert repeated(arrivals) == 2


def test_a_wait_is_from_the_post_to_the_first_arrival():
    """Repeats do not count, and what was not posted in this round is left out."""
    posted = {"e1": 10.0, "e2": 20.0}
    arrivals = [Arrival(10.5, "/one", "e1.one"), Arrival(20.25, "/one", "e2.one"), Arrival(30.0, "/one", "e1.one"), Arrival(1.0, "/one", "e0.one")]
    assert waits(of_events(arrivals, posted), posted) == [0.25, 0.5]


class SilentRelay:
    """A relay that only notes what is asked of it, under its number."""

    def __init__(self, number: int, steps: list[str]) -> None:
        self.number, self.steps, self.processes, self.check = number, steps, {}, lambda: None

    def start(self) -> None:
        self.steps.append(f"start {self.number}")

    def stop(self) -> None:
        self.steps.append(f"stop {self.number}")

    def load(self, *, purpose: str = "newsletter", **order: int) -> SimpleNamespace:
        if purpose == "parked":
            self.steps.append(f"fill {self.number} with {order['count']}")
        return SimpleNamespace(begin=lambda: None, report=lambda: {"accepted": order["count"]})


def test_ledgers_of_all_sizes_are_filled_once_and_take_turns(monkeypatch, tmp_path):
    """Job H: only the one whose turn it is has processes beside its server, and those of a round that failed are stopped as well."""
    steps: list[str] = []
    numbers, rounds = iter(range(2)), iter([100.0, 90.0, 91.0, Failed("worker ended")])

    def measured(*_: object) -> dict[str, float]:
        steps.append("measure")
        rate = next(rounds)
        if isinstance(rate, Failed):
            raise rate
        return {growth.METRIC: rate}

    fakes = {
        "running_stub": lambda _: contextlib.nullcontext(SimpleNamespace(url="http://127.0.0.1:9")),
        "running_relay": lambda *_: contextlib.nullcontext(SilentRelay(next(numbers), steps)),
        "warm_up": lambda *_: None,
        "end_to_end": measured,
        "_going_on": lambda *_: "",
        "REST_SECONDS": 0,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(growth, name, fake)
    context = Context(folder=tmp_path, rounds=2, seconds=1.5, is_quick=True, say=lambda _: None)
    empty, full = (growth.named(size) for size in growth.QUICK_SIZES)
    assert growth.run(context) == {empty: {growth.METRIC: [100.0], "unfinished": [0]}, full: {growth.METRIC: [90.0, 91.0], "unfinished": [5000, 5000]}}
    turns = [step for number in (0, 1, 1, 0) for step in (f"start {number}", "measure", f"stop {number}")]
    assert steps == ["stop 0", "start 1", "fill 1 with 5000", "stop 1", *turns]
    assert context.notes == [f"{empty}: a round failed (Failed: worker ended)"]


def test_every_family_of_keys_is_told_apart():
    """Payloads, records, indexes and standings by the names that the ledger gives its keys; standings are left out of the sum."""
    keys = Keys(8)
    names = {
        keys.payload("e1"): "payloads",
        keys.record("e1"): "records",
        keys.event(0, "open"): "event indexes",
        keys.identifier("k1"): "standings",
        keys.destination("one", "due:given"): "deliveries",
        keys.account("one", "gate"): "accounts",
    }
    assert {name: family(name) for name in names} == names
    assert per_event({"payloads": 900.0, "records": 500.0, "standings": 800.0}, {"records": 100.0}, 2, expire=["payloads"]) == {
        "bytes": 200.0,
        "bytes_records": 200.0,
        "bytes_standings": 400.0,
    }


def test_the_routing_file_of_the_benchmarks_is_good():
    """Three webhook destinations with the limits that were asked for, and one that is switched off."""
    told = [destination(name, f"http://127.0.0.1:9/{name}", concurrent=50) for name in VENDORS]
    text = routing({"newsletter": told, "parked": [destination("resting", "http://127.0.0.1:9/r", batch_size=500, enabled=False)]})
    environment = {"BENCH_WEBHOOK_SECRET": WEBHOOK_SECRET, "BENCH_KEY_SHA256": "sha256:" + "0" * 64}
    found = load_routing(text, filename="consent.yaml", environment=environment)
    assert sorted(found.destinations) == ["one", "resting", "three", "two"]
    assert found.destinations["one"].rate.concurrent == 50
    assert found.destinations["resting"].adapter.settings["batch_size"] == 500
    assert not found.destinations["resting"].enabled


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_of_the_suite_say_what_they_are_and_stay_small(path):
    """As in the product: a docstring, at most 300 lines, no function longer than 40."""
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    assert path.read_text().count("\n") <= 300
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [(node.name, node.lineno) for node in functions if (node.end_lineno or 0) - node.lineno + 1 > 40] == []


def test_nothing_of_the_product_needs_the_suite():
    """No module of config, pipeline or workers imports it, and neither lock of the product has a peer in it."""
    for package in ("config", "pipeline", "workers"):
        assert [path for path in (ROOT / package).rglob("*.py") if "benchmarks" in path.read_text()] == []
    for name in ("run", "dev"):
        assert not re.findall(r"^(dramatiq|taskiq|saq|aiohttp)==", (ROOT / "requirements" / f"{name}.txt").read_text(), re.MULTILINE)


def test_peers_know_nothing_of_the_product():
    """They run in environments that do not have it; they share the invented events alone."""
    for path in [*(ROOT / "benchmarks" / "bare").glob("*.py"), *(ROOT / "benchmarks" / "peers").glob("*_*.py"), ROOT / "benchmarks" / "peers" / "producer.py"]:
        imported = {
            name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom | ast.Import)
            for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
        }
        assert not {name for name in imported if str(name).split(".")[0] in ("config", "pipeline", "workers", "tests")}
