"""The seam of where bytes lie, over both of its sides; outages; and what must not be in an address or a name."""

import errno
import json
import pickle
import time
from dataclasses import replace

import pytest

from tests.trainables.test_adapters import KEY, state_at
from trainables.adapters import STATE, WEIGHTS, AdapterStore
from trainables.errors import AdapterError, StorageError
from trainables.leases import STALE_S, Leases
from trainables.processes import ProcessIdentity
from trainables.storage import StorePath, patiently, place, remove_tree, require_plain_name, write_atomically


@pytest.fixture(params=["folder", "store"])
def root(request, tmp_path):
    return place(request.getfixturevalue("s3") if request.param == "store" else tmp_path / "sweeps")


def test_a_file_is_written_read_listed_and_deleted(root):
    file = root / "study" / "study.json"
    assert not file.exists() and list(root.glob("*/study.json")) == []
    for content in (b"one", b"two"):
        write_atomically(file, lambda opened, content=content: opened.write(content))
        assert file.read_bytes() == content and file.read_text() == content.decode() and file.stat().st_size == 3
    assert [found.parent.name for found in root.glob("*/study.json")] == ["study"] and [p.name for p in root.iterdir()] == ["study"]
    assert file.is_file() and (root / "study").is_dir() and [p.name for p in root.rglob("*.json")] == ["study.json"]
    assert abs(time.time() - file.stat().st_mtime) < 60
    file.unlink()
    file.unlink(missing_ok=True)
    assert not file.exists()
    with pytest.raises(FileNotFoundError):
        file.read_bytes()


def test_a_write_that_fails_leaves_what_was_there(root):
    write_atomically(root / "a", lambda file: file.write(b"old"))

    def full(file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_atomically(root / "a", full)
    assert (root / "a").read_bytes() == b"old" and [path.name for path in root.iterdir()] == ["a"]


def test_a_tree_is_forgotten(root):
    for name in ("x/a", "x/y/b", "z"):
        write_atomically(root / name, lambda file: file.write(b"1"))
    remove_tree(root / "x")
    assert [path for path in root.rglob("*") if path.is_file()] == [root / "z"]


def test_adapters_and_states_come_back_and_states_can_be_dropped(root):
    store = AdapterStore(root)
    store.save(KEY, state_at(2), resumable=False)
    store.save(KEY, state_at(2))
    assert store.epochs(KEY) == [2] and store.longest_state_epoch(KEY, 9) == 2
    assert store.load_adapter(KEY, 2).layers.keys() == state_at(2).adapter.layers.keys() and store.load_state(KEY, 2).epoch == 2
    store.drop_states(KEY)
    assert store.epochs(KEY) == [2] and store.longest_state_epoch(KEY, 9) is None


def test_a_state_whose_weights_were_never_stored_is_not_there(root):
    store = AdapterStore(root)
    folder = store.save(KEY, state_at(2))
    (folder / WEIGHTS).unlink()
    assert store.epochs(KEY) == [] and store.longest_state_epoch(KEY, 9) is None
    store.save(KEY, state_at(2))
    assert store.load_state(KEY, 2).epoch == 2


class _Ran(Exception):
    pass


class _Bomb:
    def __reduce__(self):
        return (exec, ("raise __import__('tests.trainables.test_storage', fromlist=['_Ran'])._Ran",))


@pytest.mark.parametrize("name", [WEIGHTS, STATE])
def test_a_pickle_is_refused_and_never_loaded(root, name):
    store = AdapterStore(root)
    folder = store.save(KEY, state_at(2))
    write_atomically(folder / name, lambda file: file.write(pickle.dumps(_Bomb())))
    with pytest.raises(AdapterError, match=f"pickle, which could run code, is never read.*{name}"):
        store.load_state(KEY, 2)


@pytest.mark.parametrize("key", ["../x", "/etc", "a/b", "", ".hidden", "a\\b"])
def test_a_key_that_would_lead_out_of_the_storage_is_refused(root, key):
    with pytest.raises(StorageError, match="A training's key"):
        AdapterStore(root).load_adapter(key, 1)
    with pytest.raises(StorageError, match="begins with no dot"):
        require_plain_name(key, "It")


def test_one_of_two_holds_a_lease_until_it_is_released(root):
    one, other = Leases(root), Leases(root)
    assert one.acquire("k") and one.acquire("k") and not other.acquire("k") and other.holder("k") is not None
    one.refresh()
    assert not other.acquire("k")
    one.release("k")
    assert other.acquire("k") and not one.acquire("k") and one.acquire("another")


def test_claims_of_the_dead_and_of_the_silent_are_taken_over_in_a_store(s3, monkeypatch):
    claims = place(s3) / "k" / ".lease"
    own = Leases(s3)
    dead = replace(ProcessIdentity.of_this_process(), pid=2**22 + 1)  # no process has that number
    (claims / f"{dead.host}-{dead.pid}-dead").write_bytes(json.dumps(dead.to_json()).encode())
    assert own.holder("k") is None and own.acquire("k")
    own.release("k")
    (claims / "elsewhere-1-silent").write_bytes(b"{}")
    assert not own.acquire("k") and own.holder("k") is not None
    children = StorePath.children

    def as_if_silent(self):
        return [(p, s._replace(st_mtime=s.st_mtime - STALE_S - 2) if p.name.endswith("silent") else s) for p, s in children(self)]

    monkeypatch.setattr(StorePath, "children", as_if_silent)
    assert own.holder("k") is None and own.acquire("k")
    assert [path.name for path, _ in children(claims)] == [own._claims._own]


class _Outage:
    """Fails for the first `n` calls, on a clock that sleeping advances."""

    def __init__(self, n: int, error: OSError) -> None:
        self.n, self.error, self.seconds, self.calls = n, error, 0.0, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.n:
            raise self.error
        return "done"

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


AWAY = OSError("When reading information for key 'q' in bucket 'b': AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7, x")


@pytest.mark.parametrize("error", [AWAY, OSError(errno.ESTALE, "Stale file handle")])
def test_an_outage_is_waited_out_with_a_line_that_says_so(caplog, error):
    outage = _Outage(4, error)
    assert patiently(outage, "s3://b/q", sleep=outage.sleep, clock=lambda: outage.seconds) == "done" and outage.seconds == 7.5
    first, last = (record.getMessage() for record in caplog.records)
    assert first.startswith("s3://b/q does not answer (") and "for 60 s" in first and last == "s3://b/q answers again after 8 s"


def test_an_outage_without_an_end_is_an_error_and_a_full_disk_is_not_waited_for():
    outage = _Outage(10**6, AWAY)
    with pytest.raises(OSError, match="^.Errno 5. When reading information for key 'q' in bucket 'b': HeadObject operation: x$"):
        patiently(outage, "s3://b/q", sleep=outage.sleep, clock=lambda: outage.seconds)
    assert 60 <= outage.seconds < 80
    full = _Outage(1, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(OSError, match="No space left"):
        patiently(full, "/d", sleep=full.sleep, clock=lambda: full.seconds)
    assert full.seconds == 0


@pytest.mark.parametrize("credentials", ["AKIAKEY:secretsecret", "AKIAKEY:secret/secret", "AKIAKEY"])
def test_credentials_in_an_address_are_refused_and_not_repeated(credentials):
    with pytest.raises(StorageError, match="AWS_ACCESS_KEY_ID") as caught:
        place(f"s3://{credentials}@bucket/sweeps")
    assert "AKIAKEY" not in str(caught.value) and "secret/" not in str(caught.value) and "secretsecret" not in str(caught.value)


@pytest.mark.parametrize("address", ["s3://", "gs://bucket/x", "s3:///x", "s3://bucket/../x"])
def test_an_address_that_is_none_is_one_line(address):
    with pytest.raises(StorageError, match="but it is"):
        place(address)


def test_a_query_that_pyarrow_does_not_know_is_one_line(s3):
    with pytest.raises(StorageError, match="Unexpected query parameter.*'foo'"):
        place(f"{s3}?foo=1").exists()


def test_an_address_keeps_its_query_and_travels_to_other_processes(s3):
    path = pickle.loads(pickle.dumps(place(f"{s3}?region=us-east-1") / "study"))
    assert str(path) == f"{s3}/study?region=us-east-1" and place(str(path)) == path and not path.exists()
    assert path.name == "study" and str(path.parent) == f"{s3}?region=us-east-1"
