"""The job from and to S3 through a proxy that breaks things: nothing is lost, and nothing is done twice.

Whatever the fault, the job completes, or ends as an outage (exit 1) and completes when it is run again; then all
outputs and effective rows are those of a run that nothing disturbed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from fdi_lib.storage.store import Store
from tests.faults import s3_bench as shared
from tests.faults.proxy import Fault, Request, Rule, first_of, share_of
from tests.faults.s3_bench import Bench, check_accounted, created
from tests.s3 import S3Server

pytestmark = [pytest.mark.s3, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def whole_bench(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    yield from shared.start_bench(s3_server, tmp_path_factory.mktemp("faults"))


@pytest.fixture
def bench(whole_bench: Bench) -> Iterator[Bench]:
    whole_bench.proxy.forget()
    yield whole_bench
    whole_bench.proxy.forget()


@pytest.fixture(scope="module")
def undisturbed(whole_bench: Bench) -> Store:
    whole_bench.proxy.forget()
    manifest, output = whole_bench.new_run()
    answer = whole_bench.restore(manifest)
    assert {key: answer["summary"][key] for key in shared.STATUSES} == shared.STATUSES
    check_accounted(output, output)
    return output


def run_to_the_end(bench: Bench, manifest: str, most: int = 4) -> int:
    """Run again after each outage; return how many there were."""
    for outages in range(most):
        answer = bench.restore(manifest)
        if "summary" in answer:
            assert {key: answer["summary"][key] for key in shared.STATUSES} == shared.STATUSES
            return outages
        assert (answer["error"], answer["exit_code"]) == ("StorageOutageError", 1), answer
        assert "run again" in answer["message"]
    raise AssertionError(f"{most} outages: {answer}")


def check_same(bench: Bench, output: Store, undisturbed: Store) -> None:
    """Same rows and bytes; and by what the server said, no image, sidecar or ledger part was created twice."""
    check_accounted(output, undisturbed)
    assert set(created(bench.proxy.records, output).values()) == {1}


def harmed(bench: Bench) -> int:
    return sum(record.fault is not None for record in bench.proxy.records)


def once(does: Callable[[], object], nth: int, method: str, below: str) -> Rule:
    """A rule that harms nothing, but does something when the nth request for a key that holds ``below`` comes."""
    count = 0

    def rule(request: Request) -> Fault | None:
        nonlocal count
        if request.method == method and below in request.key:
            count += 1
            if count == nth:
                does()
        return None

    return rule


def test_a_storm_in_which_the_gateway_is_killed_and_comes_back(bench: Bench, undisturbed: Store) -> None:
    def kill() -> None:
        bench.server.gateway.kill()
        threading.Timer(1.0, bench.server.gateway.start).start()

    bench.proxy.rule = first_of(
        once(kill, 20, "PUT", "/images/"),
        share_of(0.08, Fault(status=503), seed=1),
        share_of(0.03, Fault(status=500), seed=2),
        share_of(0.03, Fault(reset="before"), seed=3),
        share_of(0.04, Fault(reset="after"), seed=4),
        share_of(0.06, Fault(cut=0.5), seed=5),
        share_of(0.03, Fault(delay_s=0.5), seed=6),
    )
    manifest, output = bench.new_run()
    run_to_the_end(bench, manifest)
    assert harmed(bench) > 20
    assert any(record.answered is None and not record.fault for record in bench.proxy.records)  # it was gone
    check_same(bench, output, undisturbed)


def test_creates_whose_answers_were_lost_are_neither_conflicts_nor_double(bench: Bench, undisturbed: Store) -> None:
    """run.json's, every ledger part's, and every third image's and sidecar's first answer."""
    images = share_of(0.33, Fault(reset="after"))

    def rule(request: Request) -> Fault | None:
        if request.method != "PUT" or request.seen:
            return None
        return images(request) if "/images/" in request.key else Fault(reset="after")

    bench.proxy.rule = rule
    manifest, output = bench.new_run()
    assert run_to_the_end(bench, manifest) == 0
    lost = [record.request.key for record in bench.proxy.records if record.fault]
    for part in ("run.json", "ledger/", "images/", "failed/", "review/", "report/"):
        assert any(f"{output.uri().partition('/restored')[2]}/{part}" in key for key in lost), part
    check_same(bench, output, undisturbed)


@pytest.mark.parametrize("gone", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["broken", "gone"])
def test_an_outage_ends_the_job_and_the_next_run_completes_it(bench: Bench, undisturbed: Store, gone: bool) -> None:
    """From the second ledger part on no result can be written, or nobody listens any more."""
    broken = threading.Event()
    results = ("/images/", "/ledger/")

    def rule(request: Request) -> Fault | None:
        begin(request)
        refused = broken.is_set() and request.method == "PUT" and any(part in request.key for part in results)
        return Fault(status=500) if refused else None

    begin = once(bench.proxy.off if gone else broken.set, 2, "PUT", "/ledger/")
    bench.proxy.rule = rule
    manifest, output = bench.new_run()
    answer = bench.restore(manifest)
    assert (answer["error"], answer["exit_code"]) == ("StorageOutageError", 1), answer
    assert output.uri() in answer["message"] and "run again later" in answer["message"]
    broken.clear()
    if gone:
        bench.proxy.on()
    summary = bench.restore(manifest)["summary"]
    assert {key: summary[key] for key in shared.STATUSES} == shared.STATUSES
    assert summary["already_done"] > 0  # what was committed before the outage is not done again
    check_same(bench, output, undisturbed)


# ---- one fault alone, and much of it


HEAVY = {
    "throttled": share_of(0.4, Fault(status=503)),
    "too many requests": share_of(0.3, Fault(status=429)),
    "broken": share_of(0.3, Fault(status=500)),
    "late": share_of(1.0, Fault(delay_s=0.2)),
    "in drops": share_of(1.0, Fault(trickle_s=0.005)),
    "cut": share_of(0.4, Fault(cut=0.7)),
    "cut at once": share_of(0.4, Fault(cut=0.0)),
    "reset before": share_of(0.3, Fault(reset="before")),
    "reset after": share_of(0.3, Fault(reset="after")),
    "each first answer lost": lambda request: None if request.seen else Fault(reset="after"),
}


@pytest.mark.slow
@pytest.mark.parametrize("rule", HEAVY.values(), ids=HEAVY.keys())
def test_one_fault_and_much_of_it(bench: Bench, undisturbed: Store, rule: Rule) -> None:
    bench.proxy.rule = rule
    manifest, output = bench.new_run()
    outages = run_to_the_end(bench, manifest)
    print(f"{harmed(bench)} of {len(bench.proxy.records)} requests harmed, {outages} outages")
    assert harmed(bench) > 50
    check_same(bench, output, undisturbed)


WHERE = {
    "listing": ("GET", ""),
    "source": ("GET", "masters/plain"),
    "image": ("PUT", "images/"),
    "ledger": ("PUT", "ledger/"),
    "report": ("PUT", "report/"),
    "run.json": ("PUT", "run.json"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("method", "part"), WHERE.values(), ids=WHERE.keys())
def test_an_outage_of_one_kind_of_request(bench: Bench, undisturbed: Store, method: str, part: str) -> None:
    """Reads or writes alone may fail for long: the job says so, and completes later."""
    bench.proxy.rule = lambda request: (
        Fault(status=500) if request.method == method and part in request.key and (part or not request.key) else None
    )
    manifest, output = bench.new_run()
    answer = bench.restore(manifest)
    assert (answer.get("error"), answer.get("exit_code")) == ("StorageOutageError", 1), answer
    bench.proxy.rule = lambda request: None
    assert run_to_the_end(bench, manifest) == 0
    check_same(bench, output, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("nth", [1, 10, 40])
def test_the_gateway_is_killed_wherever(bench: Bench, undisturbed: Store, nth: int) -> None:
    """Thrice in one run: at a read, at an image and at a ledger part."""

    def kill() -> None:
        bench.server.gateway.kill()
        threading.Timer(1.0, bench.server.gateway.start).start()

    rules = [once(kill, nth, "PUT", "/images/"), once(kill, 2, "PUT", "/ledger/"), once(kill, nth, "GET", "masters")]
    bench.proxy.rule = first_of(*rules)
    manifest, output = bench.new_run()
    outages = run_to_the_end(bench, manifest)
    print(f"{outages} outages")
    check_same(bench, output, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_storms(bench: Bench, undisturbed: Store, seed: int) -> None:
    """Each harms other requests; on the way some may end as outages."""
    faults = (Fault(status=503), Fault(reset="before"), Fault(reset="after"), Fault(cut=0.3), Fault(status=500))
    bench.proxy.rule = first_of(*(share_of(0.06, fault, 10 * seed + n) for n, fault in enumerate(faults)))
    manifest, output = bench.new_run()
    outages = run_to_the_end(bench, manifest)
    print(f"{harmed(bench)} of {len(bench.proxy.records)} requests harmed, {outages} outages")
    check_same(bench, output, undisturbed)
