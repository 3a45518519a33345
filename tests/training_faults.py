"""Deliberate faults in what is drawn for images, in what recipes add to an update, and in what a run reports."""

from tests.fault import Fault, fault

AUGMENTATION = "tests/resnet_dist/data/test_augmentation.py"
LOOP = "tests/resnet_dist/training/test_loop.py"
RECIPES = "tests/resnet_dist/training/test_recipes.py"

TRAINING_FAULTS: tuple[Fault, ...] = (
    fault(
        "same-noise-in-each-step",
        "dropout and random slopes draw the same numbers in every step",
        "resnet_dist/data/batches.py",
        "draws.raw(seed, Stream.NETWORK, step, size)",
        "draws.raw(seed, Stream.NETWORK, 0, size)",
        "tests/resnet_dist/data/test_batches.py",
    ),
    fault(
        "colours-only-stronger",
        "factors of colours are drawn from 1 up, and not from both sides of it",
        "resnet_dist/data/augmentation.py",
        "(2 * uniform(drawn[:, self._colour], dtype) - 1)",
        "uniform(drawn[:, self._colour], dtype)",
        AUGMENTATION,
    ),
    fault(
        "numbers-of-another-augmentation",
        "code of the user's own gets the draws of the augmentations before it",
        "resnet_dist/data/augmentation.py",
        "uniform(drawn[:, self._own], dtype)",
        "uniform(drawn[:, :OWN_NUMBERS], dtype)",
        AUGMENTATION,
    ),
    fault(
        "cuts-by-the-order",
        "cuts from images in shards follow the seed of their order",
        "resnet_dist/data/sharded.py",
        "draws.raw(self.order.augmentation_seed, Stream.CROP",
        "draws.raw(self.order.seed, Stream.CROP",
        "tests/resnet_dist/data/test_sharded.py",
    ),
    fault(
        "clipped-while-scaled",
        "in float16 the gradients of the scaled loss are clipped",
        "resnet_dist/training/update.py",
        "        if self.loss.scale.unscale(self.network):\n            if self.config.solver.gradient_clip:\n"
        "                clip(self.network, self.config.solver.gradient_clip)\n",
        "        if self.config.solver.gradient_clip:\n"
        "            clip(self.network, self.config.solver.gradient_clip)\n"
        "        if self.loss.scale.unscale(self.network):\n",
        RECIPES,
    ),
    fault(
        "clipped-up",
        "gradients smaller than the norm that is given are scaled up to it",
        "resnet_dist/training/update.py",
        "(largest / norm).clamp(max=1.0)",
        "(largest / norm)",
        RECIPES,
    ),
    fault(
        "batches-weighted-alike",
        "the training loss of an epoch is the mean of its batches', of which the last has fewer images",
        "resnet_dist/training/state.py",
        "math.fsum(a * b for a, b in zip(losses, sizes, strict=True)) / sum(sizes)",
        "math.fsum(losses) / len(losses)",
        LOOP,
    ),
    fault(
        "rate-of-the-next-epoch",
        "an epoch's line has the learning rate of the update after it",
        "resnet_dist/training/state.py",
        "self.rate_at(self.step - 1)",
        "self.rate_at(self.step)",
        LOOP,
    ),
    fault(
        "validation-error-of-five",
        "the validation error counts an image as right that is among the first five classes",
        "resnet_dist/training/state.py",
        '"validation", epoch).top1_error',
        '"validation", epoch).top5_error',
        LOOP,
    ),
    fault(
        "newest-weights-kept",
        "the final weights are the newest, where their average is evaluated",
        "resnet_dist/training/loop.py",
        "encode_model(training.evaluated,",
        "encode_model(training.network,",
        LOOP,
    ),
    fault(
        "time-of-the-last-epoch",
        "the result has the time of the last epoch instead of all",
        "resnet_dist/training/loop.py",
        'math.fsum(line["seconds"] for line in lines)',
        'lines[-1]["seconds"]',
        LOOP,
    ),
    fault(
        "jpegs-by-pillow",
        "torchvision decodes no JPEG: all of them fall to Pillow, which takes longer",
        "resnet_dist/data/image_decoding.py",
        "found = _jpeg_size(data)",
        "found = None",
        "tests/resnet_dist/data/test_folders_of_any_images.py",
    ),
    fault(
        "response-norm-over-three",
        "CaffeNet's normalisation over channels takes three of them and not five",
        "resnet_dist/networks/caffenet.py",
        "nn.LocalResponseNorm(5)",
        "nn.LocalResponseNorm(3)",
        "tests/resnet_dist/networks/test_caffenet.py",
    ),
    fault(
        "shards-by-one-process",
        "shards are written by the process that asks for them, however many were to share the work",
        "resnet_dist/data/sharding.py",
        "if processes == 1 or len(missing) < 2:",
        "if processes:",
        "tests/resnet_dist/data/test_sharding.py",
    ),
    fault(
        "readme-without-deviation",
        "the code in an archive's README leaves images undivided by their deviation",
        "tune_jobs/commands/export.py",
        "network((images.double() - model.mean) / model.std)",
        "network(images.double() - model.mean)",
        "tests/tune_jobs/commands/test_export.py",
    ),
)
