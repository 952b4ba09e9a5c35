"""A training worker's data on Ray Data: tasks make its samples ahead, in order, from any step on.

A block holds a few steps' samples of this worker; the samples' indices say everything, so a worker that starts again,
or one of another number of workers, gets exactly its part. Does NOT know the loss, nor the other workers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any

import numpy as np
import ray
from ray.data import DataContext, ExecutionResources
from ray.data.block import BlockAccessor

from fdi_lib.manifest.training import TrainWorker
from fdi_lib.training.crops import Pair, PairSource
from fdi_lib.training.samples import Samples, Shard
from jobs.pool import Rest
from jobs.read_tasks import ReadTasks

_ROWS_A_BLOCK = 64  # samples of a block at most: a block costs tens of milliseconds, a sample some,
_BYTES_A_BLOCK = 32 * 2**20  # fewer where crops are large
_BLOCKS_A_STREAM = 2000  # Ray Data keeps notes on every block: a long training is a row of streams
_STORE_BYTES = 512 * 2**20  # of the object store, for a worker's batches on their way


def batches(
    samples: Samples, shard: Shard, start: int, steps: int, worker: TrainWorker
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the rows (see :meth:`Samples.rows`) of this worker's part of every step from ``start`` to ``steps - 1``.

    Args:
        samples: light to send: of :class:`SharedPairs`, say.
        shard: which part.
        start: first step.
        steps: behind the last one.
        worker: tasks and batches ahead.
    """
    sample_bytes = sum(column.nbytes for column in samples.rows([0]).values())
    rows = min(_ROWS_A_BLOCK, _BYTES_A_BLOCK // sample_bytes)
    size = max(1, rows // len(shard))  # steps of a block
    for begin in range(start, steps, size * _BLOCKS_A_STREAM):
        end = min(steps, begin + size * _BLOCKS_A_STREAM)
        cuts = [(i, min(end, i + size)) for i in range(begin, end, size)]
        with DataContext.current(_context()):
            stream = ray.data.read_datasource(
                ReadTasks([partial(_make, samples, shard, *cut) for cut in cuts]),
                override_num_blocks=len(cuts),
                num_cpus=0,  # the worker's own CPUs: tasks can't wait for some that workers hold
                concurrency=worker.data_tasks,
                label_selector={"ray.io/node-id": ray.get_runtime_context().get_node_id()},
            )
            yield from stream.iter_batches(
                batch_size=len(shard), batch_format="numpy", prefetch_batches=worker.prefetch_batches
            )


class SharedPairs:
    """Pairs that lie in the object store once; each process looks at them when it first needs one."""

    def __init__(self, pairs: PairSource) -> None:
        self._reference = ray.put(pairs)

    def __len__(self) -> int:
        """Number of distinct pairs."""
        return len(_held(self._reference))

    def crop(self, index: int, crop_px: int, seed: int) -> Pair:
        """See :class:`PairSource`."""
        return _held(self._reference).crop(index, crop_px, seed)


@lru_cache(maxsize=2)
def _held(reference: ray.ObjectRef) -> PairSource:
    """Once a process: arrays stay in shared memory, decoded pictures are kept."""
    found: PairSource = ray.get(reference)
    return found


def _make(samples: Samples, shard: Shard, begin: int, end: int) -> Iterator[Any]:
    wanted = (index for step in range(begin, end) for index in shard.indices(step))
    yield BlockAccessor.batch_to_block(samples.rows(wanted))


def _context() -> DataContext:
    context = DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ExecutionResources.for_limits(object_store_memory=_STORE_BYTES)
    context.custom_execution_callback_classes = [*context.custom_execution_callback_classes, Rest]
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.issue_detectors_config.detectors = []
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    return context
