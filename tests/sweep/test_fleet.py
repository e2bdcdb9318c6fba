"""Workers on several nodes, one of which is killed while another comes. Starts a Ray of several nodes on this machine: under a minute."""

from collections import Counter
from contextlib import nullcontext

import pytest
from ray.cluster_utils import Cluster

from sweep.keys import Keys
from sweep.records import EVALUATIONS, TRIALS, Records, as_rows
from sweep.searcher import COMPLETE
from sweep.study import Epochs, Study
from tests.sweep.fakes import OBJECTIVE, FakeContent, FakeDeviceMaker

pytestmark = pytest.mark.ray

N_TRIALS = 24


@pytest.fixture
def cluster(ray_home, monkeypatch):
    monkeypatch.setenv("HOME", str(ray_home))
    quick = {"health_check_period_ms": 500, "health_check_failure_threshold": 3, "health_check_timeout_ms": 1000, "health_check_initial_delay_ms": 0}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 0, "_system_config": quick, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


def test_a_study_goes_on_when_a_node_is_killed_and_uses_one_that_comes(cluster, tmp_path):
    from sweep.runner import Launch, launch

    nodes = [cluster.add_node(num_cpus=1, num_gpus=1) for _ in range(2)]
    killed: list[bool] = []
    seen: Counter[str] = Counter()

    class View:
        """Kills a node once some trials have ended, and adds another."""

        def phase(self, text):
            pass

        def during(self, folder, launch):
            return nullcontext()

        def update(self, driver, snapshot):
            seen.update(snapshot.get("workers", {}).keys())
            if not killed and driver.n_ended >= 4:
                killed.append(True)
                cluster.remove_node(nodes[0], allow_graceful=False)
                cluster.add_node(num_cpus=1, num_gpus=1)  # in the main thread: Ray sets signal handlers

    rows = [{"rank": rank, "learning_rate": rate} for rank in (4, 8, 16, 32) for rate in (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 1e-3)]
    study = Study(name="s", rows=rows, epochs=Epochs(max=6, rungs=(1, 3)), objective=OBJECTIVE)
    how = Launch(
        tmp_path, address=cluster.address, device="cuda", keys=Keys(study, FakeContent()), make_device=FakeDeviceMaker(epoch_s=0.7),
        view=View(), max_concurrent=8,
    )  # fmt: skip
    driver, snapshot = launch(study, how)
    assert killed and len(seen) == 3, "a worker on each of the first two nodes, and one on the new node"
    assert {trial.state for trial in driver.trials.values()} == {COMPLETE} and len(driver.trials) == N_TRIALS
    latest = as_rows(Records(tmp_path / "s").latest_trials(), TRIALS)
    assert Counter(row["state"] for row in latest) == {COMPLETE: N_TRIALS}
    keys = [row["evaluation_key"] for row in as_rows(Records(tmp_path / "s").evaluations(), EVALUATIONS)]
    assert len(keys) == len(set(keys)) and {rung[2] for trial in driver.trials.values() for rung in trial.rungs} <= set(keys)
    assert snapshot["left_out"] == {}
