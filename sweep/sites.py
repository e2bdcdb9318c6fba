"""Where workers may be: the GPUs of Ray's nodes, or shares of their cores. Arithmetic over what `ray.nodes()` says; no Ray in here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MOST_CPU_WORKERS = 4
CPU_WORKER_BYTES = 2.5 * 2**30
"""A small step on one core costs hardly more than on two: a CPU is several devices of few threads. Each needs memory of its own."""


@dataclass(frozen=True)
class Site:
    """One GPU of a node, or a share of its cores. `index` counts them; which GPU it is Ray says when a worker is there."""

    node_id: str
    node: str  # its name: the host's, and what tells it apart where several have the same
    index: int
    n_threads: int


def sites_of(nodes: Iterable[Mapping[str, Any]], kind: str) -> list[Site]:
    """All sites for workers on the nodes that live, as `ray.nodes()` lists them. kind: "cpu" or "cuda"."""
    living = [node for node in nodes if node["Alive"]]
    n_alike = Counter(node["NodeManagerHostname"] for node in living)
    found = []
    for node in living:
        host, node_id = node["NodeManagerHostname"], node["NodeID"]
        name = host if n_alike[host] == 1 else f"{host}-{node_id[:6]}"
        n = int(node["Resources"].get("GPU", 0)) if kind == "cuda" else n_cpu_workers(node["Resources"])
        n_threads = max(1, int(node["Resources"].get("CPU", 1)) // max(1, n))
        found += [Site(node_id, name, index, n_threads) for index in range(n)]
    return found


def n_cpu_workers(resources: Mapping[str, float]) -> int:
    """How many workers the cores and the memory of a node carry; none where it has set no core aside."""
    n_cores, n_in_memory = int(resources.get("CPU", 0)), int(resources.get("memory", 0) // CPU_WORKER_BYTES)
    return min(n_cores, max(1, n_in_memory), MOST_CPU_WORKERS)
