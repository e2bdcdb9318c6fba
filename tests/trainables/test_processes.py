"""Whether another process has ended: known of the same boot and pid namespace only, and never by a
number that was given again."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from trainables.leases import STALE_S, Leases
from trainables.processes import ProcessIdentity

HERE = ProcessIdentity.of_this_process()
linux = pytest.mark.skipif(
    not HERE.started,
    reason="this machine has no /proc, so no process can tell that another one has ended",
)
DEAD_PID = 2**22 + 1  # above every number that Linux gives


@pytest.fixture
def child():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process


def identity_of(pid: int) -> ProcessIdentity:
    """As that process would give it."""
    found = (open(f"/proc/{pid}/stat").read().rpartition(")")[2]).split()[19]
    return replace(HERE, pid=pid, started=int(found))


@linux
def test_a_process_of_this_namespace_has_ended_when_it_is_gone_killed_or_its_number_is_anothers(
    child,
):
    living = identity_of(child.pid)
    assert not HERE.has_ended and not living.has_ended
    assert (
        replace(living, started=living.started - 1).has_ended
        and replace(HERE, pid=DEAD_PID).has_ended
    )
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie, which runs no more
    assert living.has_ended
    child.wait()
    assert living.has_ended


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"host": "another"},
        {"boot": "another"},
        {"namespace": "pid:[1]"},
        {"boot": ""},
        {"namespace": ""},
        {"started": 0},
    ],
)
def test_nothing_is_concluded_of_a_process_whose_number_counts_elsewhere(elsewhere):
    assert not replace(HERE, pid=DEAD_PID, **elsewhere).has_ended


@pytest.mark.parametrize(
    "damaged",
    [
        {},
        {"host": "h"},
        {"host": "h", "pid": "x"},
        {"host": "h", "pid": -1},
        {"host": "h", "pid": 10**30},
    ],
)
def test_what_is_no_identity_is_refused(damaged):
    with pytest.raises((KeyError, TypeError, ValueError)):
        ProcessIdentity.from_json(damaged)


def test_an_identity_survives_json():
    assert ProcessIdentity.from_json(json.loads(json.dumps(HERE.to_json()))) == HERE


HOLD_AS = """
import os, sys, time
from trainables.leases import Leases
while (child := os.fork()) not in (0, {pid}):
    os.waitpid(child, 0)
if child:
    os.waitpid(child, 0)
elif os.getpid() == {pid}:
    print(Leases(sys.argv[1]).acquire("k"), os.getpid(), flush=True)
    sys.stdin.read()
os._exit(0)
"""
TRY = "import sys; from trainables.leases import Leases; print(Leases(sys.argv[1]).acquire('k'))"
CONTAINER = [
    "unshare",
    "--user",
    "--map-root-user",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
]


def python(code: str, root, *, before: list[str] = []) -> list[str]:
    return [*before, sys.executable, "-c", code, str(root)]


def in_a_container(code: str, root, *, mount_proc: bool = True) -> list[str]:
    """`unshare` as far as this machine permits it: with a user namespace or, for root in a
    container, without one."""
    wanted = CONTAINER if mount_proc else CONTAINER[:-1]
    for before in (wanted, [word for word in wanted if word not in ("--user", "--map-root-user")]):
        try:
            if subprocess.run([*before, "true"], capture_output=True, timeout=20).returncode == 0:
                return python(code, root, before=before)
        except FileNotFoundError:
            break
    pytest.skip("this machine does not permit `unshare --pid`")


@pytest.mark.parametrize("mount_proc", [True, False])
def test_two_containers_on_one_hosts_network_do_not_take_each_others_lease(tmp_path, mount_proc):
    number = next(
        pid for pid in range(20, 10_000) if not Path(f"/proc/{pid}").exists()
    )  # of nobody outside
    code = HOLD_AS.format(pid=number)
    holder = subprocess.Popen(
        in_a_container(code, tmp_path, mount_proc=mount_proc),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline().split() == ["True", str(number)]
        other = in_a_container(TRY, tmp_path, mount_proc=mount_proc)
        for rival in (python(TRY, tmp_path), other):
            assert (
                subprocess.run(rival, capture_output=True, text=True, timeout=60).stdout.strip()
                == "False"
            )
    finally:
        holder.stdin.close()
        holder.wait(timeout=20)
    lease = tmp_path / "k" / ".lease"
    assert lease.exists()  # its process ended without giving it back
    os.utime(lease, (lease.stat().st_mtime - STALE_S - 1,) * 2)
    assert Leases(tmp_path).acquire("k")


@linux
def test_a_lease_whose_number_another_process_has_now_is_free_at_once(tmp_path):
    Leases(tmp_path).acquire("k")
    lease = tmp_path / "k" / ".lease"
    claim = json.loads(lease.read_text())
    lease.write_text(
        json.dumps(
            {**claim, "token": "another", "pid": os.getppid(), "started": claim["started"] - 1}
        )
    )
    assert Leases(tmp_path).acquire("k")


@linux
def test_a_lease_that_an_older_version_wrote_is_judged_by_its_age_alone(tmp_path):
    (tmp_path / "k").mkdir()
    lease = tmp_path / "k" / ".lease"
    lease.write_text(json.dumps({"host": HERE.host, "pid": DEAD_PID, "token": "x", "note": {}}))
    assert not Leases(tmp_path).acquire("k")
    os.utime(lease, (lease.stat().st_mtime - STALE_S - 1,) * 2)
    assert Leases(tmp_path).acquire("k")
