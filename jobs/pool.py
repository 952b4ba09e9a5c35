"""The cluster a job runs on, and what of it each half of the job may take.

Joins the cluster that RAY_ADDRESS names, else starts one on this machine. The router's actors and Ray Data share it by
a fixed split, so that neither can starve the other. Does NOT know what they work on.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ray
from ray.data import DataContext, ExecutionResources
from ray.exceptions import RayError

from fdi_lib.errors import CapacityError, FDIError
from fdi_lib.manifest import Pools
from fdi_lib.manifest.locations import redact
from fdi_lib.manifest.settings import ClassifyPool, DecodePool, RestorePool
from jobs import capacity
from jobs.capacity import Amount, Workers

log = logging.getLogger(__name__)
_GIB = 2**30
_TURN_S = 0.01  # of Ray Data's scheduling loop, see Rest
_ANSWER_S = 10.0  # for a cluster's first word; Ray itself tries for two minutes, and then aborts the process
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00" + bytes(4)  # preface, empty SETTINGS
_HEAP = 0.6  # of physical memory; Ray's object store takes 0.3
_PROMISED = 2.0  # times physical memory for one pool, on this machine alone: the defaults are to run on small ones


class Rest:
    """Called by Ray Data after each turn of its scheduling loop: a pause.

    The loop waits for its tasks. Where there are none to wait for, because the consumer is slower than the stream, it
    would go round and round, hold Python's lock, and take the CPU from whoever consumes: a trainer took four times as
    long for a step (Ray 2.60).
    """

    def before_execution_starts(self, executor: Any) -> None:
        """Nothing."""

    def on_execution_step(self, executor: Any) -> None:
        """Pause."""
        time.sleep(_TURN_S)

    def after_execution_succeeds(self, executor: Any) -> None:
        """Nothing."""

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        """Nothing."""


def stream_needs(pools: Pools) -> list[tuple[Amount, int]]:
    """Workers that read and classify, at the least: one decode task and the smallest classify pool."""
    return [(_one(pools.decode), 1), (_one(pools.classify), pools.classify.min)]


def _one(pool: DecodePool | ClassifyPool | RestorePool) -> Amount:
    """What one worker of a pool needs."""
    gpus = pool.gpus if isinstance(pool, ClassifyPool | RestorePool) else 0.0
    return Amount(pool.cpus, gpus, pool.memory_gib * _GIB)


@contextmanager
def cluster(pools: Pools, wait_s: float, *, restoring: bool = True) -> Iterator[int]:
    """Yield how many restore actors there may be; the rest of the cluster is Ray Data's.

    A cluster that this process had joined already is used, and left as it is. On this machine alone, CPUs and memory
    are promised to each pool where they are short: a small machine is slow, not refused, unless one pool by itself
    needs more CPUs, or twice as much memory.

    Raises:
        CapacityError: this machine, or what the cluster's autoscaler may add, can never hold the smallest pools.
        FDIError: the cluster does not answer, or does not hold them within ``wait_s``.
    """
    one = _one(pools.restore) if restoring else Amount()
    stream = stream_needs(pools)
    with joined([*stream, (one, pools.restore.min)] if restoring else stream, wait_s) as have:
        actors = min(pools.restore.max, (have - capacity.total(stream)).holds(one)) if restoring else 0
        with DataContext.current(_data_context(have - one * actors)):
            yield actors


@contextmanager
def joined(workers: Workers, wait_s: float = 0.0) -> Iterator[Amount]:
    """For the block, the cluster that RAY_ADDRESS names or that this process had joined, else one on this machine.

    Args:
        workers: what it must have room for.
        wait_s: how long to wait for nodes.

    Yields:
        What it has in all.

    Raises:
        CapacityError: this machine alone, or the cluster as far as its autoscaler may make it grow, can never hold it.
        FDIError: the cluster does not answer, or does not hold it within ``wait_s``.
    """
    ours = not ray.is_initialized()
    can_grow = not ours or bool(os.environ.get("RAY_ADDRESS"))
    if ours:
        _start(workers)
    try:
        yield _wait_for(workers, wait_s if can_grow else None)
    finally:
        if ours:
            ray.shutdown()


def _start(workers: Workers) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's own handler of SIGTERM aborts a shutdown that takes more than three seconds: put ours back.
    before = signal.getsignal(signal.SIGTERM)
    try:
        _init(workers)
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _init(workers: Workers) -> None:
    quiet = {"logging_level": logging.WARNING, "log_to_driver": False}
    # It says at every start that tokens are on, which is Ray's own default and as it should be.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _expect_answer(address, _ANSWER_S)
        try:
            ray.init(**quiet)
        except (ConnectionError, RuntimeError, ValueError, RayError) as error:
            raise _no_cluster(address, str(error).partition("\n")[0]) from error
        return
    cpus, physical = os.cpu_count() or 1, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    _expect_room(workers, Amount(cpus, 0.0, physical))
    least = capacity.total(workers)
    ray.init(
        address="local",
        num_cpus=max(cpus, math.ceil(least.cpus)),
        include_dashboard=False,
        _memory=max(int(physical * _HEAP), math.ceil(least.memory)),
        **quiet,
    )


def _expect_room(workers: Workers, here: Amount) -> None:
    """Refuse a pool that this machine could not hold if it had it to itself; GPUs are Ray's to count.

    Raises:
        CapacityError: says what it needs, and what there is.
    """
    most = replace(here, memory=_PROMISED * here.memory)
    for worker, count in workers:
        if most.holds(replace(worker, gpus=0.0)) < count:
            need = f"{worker.cpus:g} CPUs and {worker.memory / _GIB:g} GiB"
            raise CapacityError(
                f"{count} worker{'s' if count > 1 else ''} of {need} can't run on this machine ({here.cpus:g} CPUs, "
                f"{here.memory / _GIB:.1f} GiB); lower min, cpus or memory_gib, or set RAY_ADDRESS to a larger cluster"
            )


def _expect_answer(address: str, wait_s: float) -> None:
    """Return if something at ``host:port`` (or ``ray://host:port``) speaks gRPC's protocol, or if there is no port.

    Raises:
        FDIError: nothing there does, within ``wait_s``.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if "://" in host or not colon or not port.isdecimal():
        return  # auto, local, or something that Ray itself will refuse
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=wait_s) as connection:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return
            connection.settimeout(wait_s)
            connection.sendall(_HTTP2_HELLO)
            if connection.recv(4, socket.MSG_WAITALL)[3:] != b"\x04":  # a server's first frame, too, is SETTINGS
                raise _no_cluster(address, "something else than Ray answers there")
    except TimeoutError as error:
        raise _no_cluster(address, f"no answer within {wait_s:.0f} s") from error
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, getattr(error, "strerror", None) or str(error)) from error


def _no_cluster(address: str, why: str) -> FDIError:
    remedy = "start that cluster, or correct RAY_ADDRESS, or unset it to use this machine alone"
    return FDIError(f"RAY_ADDRESS = {redact(address)}: {why}; {remedy}")


def _wait_for(workers: Workers, wait_s: float | None) -> Amount:
    """Return what the cluster has once it suffices; None waits for nothing, as nothing can come."""
    deadline, told = time.monotonic() + (wait_s or 0), -math.inf
    while True:
        have = capacity.present()
        missing = have.shortage(workers)
        if not missing:
            return have.total
        if wait_s is None:
            raise CapacityError(f"{missing}; lower pools.*.min or gpus, or set RAY_ADDRESS to a larger cluster")
        most = capacity.possible(have)
        if most and (never := most.shortage(workers)):
            raise CapacityError(f"{never} when its autoscaler has done all it may; raise its limits, or lower pools.*")
        if time.monotonic() >= deadline:
            raise FDIError(f"{missing}; add nodes, or lower pools.*.min, cpus, gpus or memory_gib")
        if time.monotonic() - told >= 30:
            log.warning("%s; waiting for nodes, at most %.0f s", missing, wait_s)
            told = time.monotonic()
        time.sleep(1)


def _data_context(share: Amount) -> DataContext:
    """Settings of Ray Data for this job alone: its share of the cluster, and that our batches stay as they are."""
    context = DataContext.get_current().copy()
    limits = ExecutionResources.for_limits(cpu=round(share.cpus, 4), gpu=round(share.gpus, 4), memory=share.memory)
    context.execution_options.resource_limits = limits
    # A yielded row is a batch of our own making: each becomes a block at once. With the default, blocks wait until they
    # reach 128 MiB, and a listing of tiny rows would not stream at all.
    context.target_max_block_size = 1
    context.custom_execution_callback_classes = [*context.custom_execution_callback_classes, Rest]
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = 24 * 3600  # a cluster may wait for spot nodes; limits.wait_s is ours
    context.issue_detectors_config.detectors = []  # advice on memory= for a developer, not for a user
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # "progress bars disabled"
    return context
