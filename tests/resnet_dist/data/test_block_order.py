"""The order of an epoch over shards: shuffled well, and read in few requests."""

from collections import OrderedDict

import numpy as np
import pytest
from numpy.typing import NDArray

from resnet_dist.configuration.data import DataConfig
from resnet_dist.data.block_order import BlockOrder, blocks_held
from resnet_dist.workers import Shards

IMAGES, BATCH, BLOCK = 20_011, 64, 32


def order_of(
    images: int = IMAGES, window: int = 4, block: int = BLOCK, seed: int = 0, batch: int = BATCH
) -> BlockOrder:
    data = DataConfig(batch_size=batch, sampling="permutation", shuffle_block=block, shuffle_window=window)
    return BlockOrder(data, images, seed)


def epoch(order: BlockOrder, number: int = 0) -> NDArray[np.int64]:
    first = order.plan.first_step(number)
    return np.concatenate([order.draw(step).indices for step in range(first, order.plan.first_step(number + 1))])


@pytest.mark.parametrize("images", [BATCH, 65, 1000, IMAGES])
def test_an_epoch_has_each_image_once(images: int) -> None:
    assert np.array_equal(np.sort(epoch(order_of(images))), np.arange(images))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [epoch(order_of(seed=seed), number) for seed in (0, 1) for number in (0, 1)]
    assert all((orders[a] == orders[b]).mean() < 0.01 for a in range(4) for b in range(a))
    assert np.array_equal(epoch(order_of(), 1), orders[1])


def test_the_images_of_a_block_are_spread_over_many_batches() -> None:
    """Of the pairs in a batch 2.5 % are of one block, with a window of one block 7 %, in a uniform shuffle 0.15 %."""
    shares = {}
    for window in (1, 4, 16):
        blocks = epoch(order_of(window=window))[: IMAGES // BATCH * BATCH].reshape(-1, BATCH) // BLOCK
        same = (blocks[:, :, None] == blocks[:, None, :]).sum() - blocks.size
        shares[window] = same / (blocks.size * (BATCH - 1))
    assert shares[16] < shares[4] < shares[1]
    assert shares[4] < 0.03


def test_each_batch_is_drawn_from_the_whole_set() -> None:
    """Eight lanes at least are in each batch: its images come from as many places of the epoch's sequence of blocks."""
    batches = epoch(order_of())[: IMAGES // BATCH * BATCH].reshape(-1, BATCH)
    assert (batches.std(1) > 0.15 * IMAGES).mean() > 0.95  # 0.29 for uniform draws


def reads(workers: int, held: int, window: int = 4) -> list[int]:
    """How many blocks each worker reads in an epoch, if it keeps so many."""
    order = order_of(window=window)
    counts = []
    for rank in range(workers):
        kept: OrderedDict[int, None] = OrderedDict()
        count = 0
        for step in range(order.plan.first_step(1)):
            indices = order.draw(step).indices
            ((start, stop),) = Shards(workers, range(rank, rank + 1)).bounds(0, len(indices))
            for block in (indices[start:stop] // BLOCK).tolist():
                count += block not in kept
                kept[block] = None
                kept.move_to_end(block)
                if len(kept) > held:
                    kept.popitem(last=False)
        counts.append(count)
    return counts


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_workers_together_read_each_block_little_more_than_once(workers: int) -> None:
    whole = -(-IMAGES // BLOCK)
    found = reads(workers, blocks_held(BLOCK, 4, workers))
    assert whole <= sum(found) < 1.4 * whole  # a lane that two of three workers share is read by both
    assert max(found) < 1.7 * whole / workers
