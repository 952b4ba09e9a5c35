"""What a Ray cluster has, and what it can ever have: amounts of resources, of all nodes and of the largest ones.

Does NOT know what the resources are wanted for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import ray
from ray._private.state import state  # where Ray Data and Ray Train look, too

_GIB = 2**30
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Amount:
    """An amount of resources; ``memory`` in bytes."""

    cpus: float = 0.0
    gpus: float = 0.0
    memory: float = 0.0

    @classmethod
    def of(cls, resources: Mapping[str, float]) -> Amount:
        """From Ray's names."""
        return cls(resources.get("CPU", 0.0), resources.get("GPU", 0.0), resources.get("memory", 0.0))

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.cpus + other.cpus, self.gpus + other.gpus, self.memory + other.memory)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.cpus - other.cpus, self.gpus - other.gpus, self.memory - other.memory)

    def __mul__(self, count: float) -> Amount:
        return Amount(self.cpus * count, self.gpus * count, self.memory * count)

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs, {self.gpus:g} GPUs, {self.memory / _GIB:.1f} GiB"

    def holds(self, part: Amount) -> int:
        """How often ``part`` fits; a share of a GPU is one of a single device."""
        pairs = [(self.cpus, part.cpus), (self.memory, part.memory)]
        times = [math.floor(have / need + _ROUNDING) for have, need in pairs if need > 0]
        if part.gpus >= 1:
            times.append(math.floor(self.gpus / part.gpus + _ROUNDING))
        elif part.gpus > 0:
            devices = math.floor(self.gpus + _ROUNDING)
            rest = max(0.0, self.gpus - devices)  # of a device that something else has a share of
            times.append(devices * math.floor(1 / part.gpus + _ROUNDING) + math.floor(rest / part.gpus + _ROUNDING))
        return min(times)


Workers = Sequence[tuple[Amount, int]]  # what one worker needs, all of it on one node, and how many there must be


def total(workers: Workers) -> Amount:
    """What they need together."""
    return reduce(Amount.__add__, (one * count for one, count in workers), Amount())


@dataclass(frozen=True)
class Capacity:
    """Nodes, by what they have."""

    nodes: Sequence[Amount]

    @property
    def total(self) -> Amount:
        """Of all nodes together."""
        return reduce(Amount.__add__, self.nodes, Amount())

    def shortage(self, workers: Workers) -> str:
        """Say what is missing for all of them together, or for one kind that has the nodes to itself; "" if nothing."""
        have, least = self.total, total(workers)
        if have.cpus < least.cpus - _ROUNDING or have.gpus < least.gpus - _ROUNDING or have.memory < least.memory:
            return f"the smallest pools need {least}, the cluster has {have}"
        for worker, count in workers:
            places = sum(node.holds(worker) for node in self.nodes)
            if not places and count:
                largest = max(self.nodes, key=lambda node: (node.gpus, node.cpus, node.memory))
                return f"one worker needs {worker} on one node, the largest node has {largest}"
            if places < count:
                return f"{count} workers need {worker} each, on one node; the nodes have room for {places}"
        return ""


def present() -> Capacity:
    """The nodes that are there."""
    return Capacity([Amount.of(node["Resources"]) for node in ray.nodes() if node["Alive"]])


def possible(now: Capacity) -> Capacity | None:
    """The nodes that are there, and all that the autoscaler may add; None where no autoscaler has told its limits.

    Nodes that it has added already are counted twice: what this can't hold, no growth will.
    """
    config = state.get_cluster_config()
    if config is None or not config.node_group_configs:
        return None
    groups = [(Amount.of(dict(group.resources)), group.max_count) for group in config.node_group_configs]
    # -1 is "without end"; as many as any job asks for will do.
    return Capacity([*now.nodes, *(node for node, most in groups for _ in range(10_000 if most < 0 else most))])
