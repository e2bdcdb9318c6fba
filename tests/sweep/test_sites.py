"""Which sites for workers there are on the nodes that Ray lists. No Ray."""

from sweep.sites import CPU_WORKER_BYTES, MOST_CPU_WORKERS, n_cpu_workers, sites_of


def node(node_id: str, host: str, alive: bool = True, **resources) -> dict:
    return {"NodeID": node_id, "NodeManagerHostname": host, "Alive": alive, "Resources": resources}


def test_each_gpu_of_each_node_that_lives_is_a_site():
    nodes = [node("a", "one", CPU=8, GPU=2), node("b", "two", CPU=4, GPU=1), node("c", "three", alive=False, GPU=8), node("d", "head", CPU=0)]
    sites = sites_of(nodes, "cuda")
    assert [(site.node, site.index, site.n_threads) for site in sites] == [("one", 0, 4), ("one", 1, 4), ("two", 0, 4)]


def test_nodes_of_the_same_host_name_are_told_apart():
    sites = sites_of([node("abcdefgh", "vm", GPU=1), node("ijklmnop", "vm", GPU=1)], "cuda")
    assert [site.node for site in sites] == ["vm-abcdef", "vm-ijklmn"]


def test_a_cpu_has_as_many_workers_as_its_cores_and_its_memory_carry():
    assert n_cpu_workers({"CPU": 2, "memory": 100 * CPU_WORKER_BYTES}) == 2
    assert n_cpu_workers({"CPU": 64, "memory": 100 * CPU_WORKER_BYTES}) == MOST_CPU_WORKERS
    assert n_cpu_workers({"CPU": 64, "memory": 2.5 * CPU_WORKER_BYTES}) == 2
    assert n_cpu_workers({"CPU": 1, "memory": 0.5 * CPU_WORKER_BYTES}) == 1
    assert n_cpu_workers({"CPU": 0, "memory": 100 * CPU_WORKER_BYTES}) == 0, "a head that is to run nothing"
