"""The order of an epoch over shards: shuffled, and read in blocks.

Blocks of images that lie side by side are shuffled; then each image moves forward by up to a window of blocks, so that
those of one block are spread over that window, and at any time the images of few blocks are wanted. The sequence is
cut into lanes, and each batch takes an equal part of each lane: workers, who have a slice of each batch, then have
lanes of their own and read no block that another one reads, but for those at a lane's ends.
"""

import numpy as np
from numpy.typing import NDArray

from resnet_dist.data import random_draws as draws
from resnet_dist.data.batch_order import BatchOrder
from resnet_dist.data.random_draws import Stream

LANES = 8


class BlockOrder(BatchOrder):
    """Draws the batch of any step, each epoch's in an order of blocks."""

    def _order_of(self, epoch: int) -> NDArray[np.int64]:
        images, block = self.plan.images, self.data.shuffle_block
        blocks = -(-images // block)
        bits = draws.raw(self.seed, Stream.ORDER, epoch, blocks + images)
        starts = draws.permutation(bits[:blocks]) * block
        sequence = (starts[:, None] + np.arange(block)).ravel()
        sequence = sequence[sequence < images]
        ahead = draws.uniform(bits[blocks:]) * (self.data.shuffle_window * block)
        sequence = sequence[np.argsort(np.arange(images) + ahead, kind="stable")]
        # The place of each image in its batch says in which lane it is.
        batch = self.plan.batch_size
        first = np.arange(images) // batch * batch
        lane = (np.arange(images) - first) * LANES // np.minimum(batch, images - first)
        order = np.empty(images, np.int64)
        order[np.argsort(lane, kind="stable")] = sequence
        return order


def blocks_held(block: int, window: int, workers: int) -> int:
    """Blocks that a worker keeps in memory, so that none is read twice."""
    lanes = -(-LANES // workers) + 1
    return 1 if block == 1 else lanes * (window + 2)
