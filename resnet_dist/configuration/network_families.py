"""Which families of networks there are."""

FAMILIES = {
    "residual": "resnet_dist.networks.cifar:ResidualNetwork",
    "plain": "resnet_dist.networks.cifar:ResidualNetwork",
    "preactivation": "resnet_dist.networks.preactivation:PreactivationNetwork",
    "imagenet-residual": "resnet_dist.networks.imagenet:ImageNetNetwork",
    "imagenet-plain": "resnet_dist.networks.imagenet:ImageNetNetwork",
    "imagenet-preactivation": "resnet_dist.networks.imagenet:ImageNetNetwork",
    "caffenet": "resnet_dist.networks.caffenet:CaffeNet",
}
"""What makes the networks of each family, called with the configurations of network and batch norm, the classes, and
rows or columns of the images."""

EFFECTIVE: dict[str, tuple[str, ...]] = {
    "shortcut": ("residual", "preactivation", "imagenet-residual", "imagenet-preactivation"),
    "relu_after_addition": ("residual", "plain", "imagenet-residual", "imagenet-plain"),
    "batch_norm_position": ("residual", "imagenet-residual"),
    "initialisation": ("residual", "plain"),
    "bottleneck_stride": ("imagenet-residual", "imagenet-plain", "imagenet-preactivation"),
    "zero_last_scale": ("residual", "imagenet-residual"),
    "stem_and_head": ("imagenet-residual", "imagenet-plain"),
    "activation": ("caffenet",),
    "activation_batch_norm": ("caffenet",),
    "local_response_norm": ("caffenet",),
    "fully_connected": ("caffenet",),
    "dropout": ("caffenet",),
}
"""In which families a setting has an effect; in the others it may only have its default."""
