"""The S3 store through a proxy that breaks things: what is asked again, how often, and what never is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from fdi_lib.errors import StorageOutageError, StorageRefusedError
from fdi_lib.manifest.settings import StorageSettings
from fdi_lib.storage.s3 import CONFIG, TRIES, S3Store, _pause_s
from tests.faults.proxy import Fault, FaultProxy, Request
from tests.s3 import S3Server

pytestmark = pytest.mark.s3
DATA = bytes(range(256)) * 1000


@pytest.fixture
def proxy(s3_server: S3Server, s3_bucket: str) -> Iterator[FaultProxy]:
    with FaultProxy(s3_server.endpoint_url) as proxy:
        yield proxy


@pytest.fixture
def store(proxy: FaultProxy, s3_bucket: str) -> S3Store:
    """A prefix behind the proxy, with two objects."""
    store = S3Store.at_uri(f"{s3_bucket}/some/prefix", StorageSettings(endpoint_url=proxy.url))
    for name in "ab":
        assert store.create(name, DATA)
    proxy.forget()
    return store


def asked(proxy: FaultProxy, method: str, name: str) -> list[int | None]:
    """What the server itself said to each request for an object; None where it was never asked."""
    found = [record for record in proxy.records if record.request.method == method]
    return [record.upstream for record in found if record.request.key == f"some/prefix/{name}"]


FAULTS = {
    "throttled": Fault(status=503),
    "too many requests": Fault(status=429),
    "broken": Fault(status=500),
    "reset before": Fault(reset="before"),
    "reset after": Fault(reset="after"),
    "cut in the middle": Fault(cut=0.5),
    "cut at once": Fault(cut=0.0),
    "late": Fault(delay_s=0.5),
    "slow": Fault(trickle_s=0.005),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_each_call_survives_a_fault_of_its_first_two_tries(store: S3Store, proxy: FaultProxy, fault: Fault) -> None:
    """All at once: what each waits for is mostly pauses."""
    proxy.rule = lambda request: fault if request.seen < 2 else None
    calls: list[tuple[Callable[[], object], object]] = [
        (lambda: store.read("a"), DATA),
        (lambda: store.read("b", 1000, 500), DATA[1000:1500]),
        (lambda: store.read("b", len(DATA), 5), b""),
        (lambda: store.size("a"), len(DATA)),
        (lambda: store.size("nothing"), None),
        (lambda: [entry.path for entry in store.walk("a")], ["a"]),
        (lambda: store.replace("new", DATA), None),
        (lambda: store.delete("old"), None),
        (store.check, None),
    ]
    with ThreadPoolExecutor(len(calls)) as pool:
        assert list(pool.map(lambda call: call[0](), calls)) == [expected for _, expected in calls]
    assert len([record for record in proxy.records if record.fault]) >= len(calls)
    proxy.forget()
    assert store.read("new") == DATA


def test_a_create_whose_answer_is_lost_twice_arrives_once(store: S3Store, proxy: FaultProxy) -> None:
    proxy.rule = lambda request: Fault(reset="after") if request.seen < 2 else None
    assert not store.create("once", DATA)  # as Store.create says: False may mean that a first try arrived
    assert asked(proxy, "PUT", "once") == [200, 412, 412]
    assert store.read("once") == DATA
    assert not store.create("once", b"another's")
    assert store.read("once") == DATA


@pytest.mark.parametrize(
    ("fault", "tries"), [(Fault(cut=0.9), TRIES), (Fault(status=429), TRIES), (Fault(status=503), 3)], ids=str
)
def test_tries_are_bounded(store: S3Store, proxy: FaultProxy, fault: Fault, tries: int) -> None:
    store.config = {**CONFIG, "retries": {"mode": "standard", "total_max_attempts": 3}}
    store._session = None
    proxy.rule = lambda request: fault
    with pytest.raises(StorageOutageError, match="run again later"):
        store.read("a")
    assert len(asked(proxy, "GET", "a")) == tries


def test_a_body_in_endless_drops_is_given_up(store: S3Store, proxy: FaultProxy) -> None:
    store.patience_s = 0.2
    proxy.rule = lambda request: Fault(trickle_s=3.0)
    with pytest.raises(StorageOutageError, match="time-out"):
        store.read("a", 0, 640)
    proxy.rule = lambda request: None
    assert store.read("a", 0, 640) == DATA[:640]


def test_what_cannot_change_is_asked_once(
    store: S3Store, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, s3_bucket: str
) -> None:
    with pytest.raises(FileNotFoundError):
        store.read("nothing")
    assert asked(proxy, "GET", "nothing") == [404]
    assert not store.create("a", b"")
    assert asked(proxy, "PUT", "a") == [412]
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    stranger = S3Store.at_uri(f"{s3_bucket}/some/prefix", StorageSettings(endpoint_url=proxy.url))
    with pytest.raises(StorageRefusedError):
        stranger.read("b")
    assert asked(proxy, "GET", "b") == [403]


def test_pauses_grow_and_no_two_are_equal() -> None:
    """Throttled workers that come back in step are throttled again."""
    for attempt in range(TRIES):
        drawn = {_pause_s(attempt) for _ in range(20)}
        assert len(drawn) == 20 and max(drawn) <= 0.4 * 2**attempt and min(drawn) >= 0.2 * 2**attempt


def test_a_store_that_is_away_for_a_moment(store: S3Store, proxy: FaultProxy) -> None:
    def rule(request: Request) -> Fault | None:
        if request.number == 6:
            proxy.off()
            proxy.on()  # whoever was connected has lost that, this very request included
        return None

    proxy.rule = rule
    names = [f"n{number:02d}" for number in range(12)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(store.create, names, [DATA] * 12))
    assert [asked(proxy, "PUT", name).count(200) for name in names] == [1] * 12
    assert max(len(asked(proxy, "PUT", name)) for name in names) > 1
    assert [entry.path for entry in store.walk("n")] == names
