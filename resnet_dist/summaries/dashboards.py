"""What TensorBoard's HParams and Custom Scalars pages need of a trial.

Nothing here depends on the time, so that a resumed run writes what the undisturbed one does. The final errors on the
HParams page are the last points of the trial's curves.
"""

from typing import Any

from resnet_dist.configuration.identity import NOT_IDENTITY
from resnet_dist.configuration.training import TrainingConfig

NOT_SHOWN = {*NOT_IDENTITY, "data.fingerprint"} - {"data.source", "run.workers"}
"""Settings that are no hyperparameters."""

CHARTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("training loss and test error", ("train/epoch_loss", "test/top1_error")),
    ("training loss and test loss", ("train/epoch_loss", "test/loss")),
    ("test error: top-1 and top-5", ("test/top1_error", "test/top5_error")),
    ("learning rate", ("train/learning_rate",)),
)
"""Charts of the Custom Scalars page, by title: curves that are laid over each other."""


def hyperparameters(config: TrainingConfig) -> dict[str, bool | float | str]:
    """Settings as the HParams page can show them: `{"section.field": value}`, those without a value left out."""
    return {
        name: ",".join(map(str, value)) if isinstance(value, list) else value
        for name, value in config.to_flat_dict().items()
        if name not in NOT_SHOWN and value is not None
    }


def session_start(config: TrainingConfig) -> Any:
    """The summary that puts a trial on the HParams page."""
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo

    start = SessionStartInfo(group_name=config.trial_id())
    for name, value in hyperparameters(config).items():
        kind = {bool: "bool_value", str: "string_value"}.get(type(value), "number_value")
        setattr(start.hparams[name], kind, value)
    return _of_session(metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start))


def session_end() -> Any:
    """The summary that says on the HParams page that the trial has come to its end."""
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

    end = SessionEndInfo(status=STATUS_SUCCESS)
    return _of_session(metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end))


def _of_session(tag: str, data: Any) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.plugins.hparams import metadata

    data.version = metadata.PLUGIN_DATA_VERSION
    # A map's order in memory is not fixed, and the same settings are to be the same bytes.
    content = data.SerializeToString(deterministic=True)
    plugin = SummaryMetadata.PluginData(plugin_name=metadata.PLUGIN_NAME, content=content)
    described = SummaryMetadata(plugin_data=plugin)
    return Summary(value=[Summary.Value(tag=tag, metadata=described, tensor=metadata.NULL_TENSOR)])


def curves_layout() -> Any:
    """The summary that lays out the Custom Scalars page; TensorBoard merges those of all trials into one."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.custom_scalar import metadata
    from tensorboard.plugins.custom_scalar.layout_pb2 import Category, Chart, Layout, MultilineChartContent
    from tensorboard.util.tensor_util import make_tensor_proto

    charts = [
        Chart(title=title, multiline=MultilineChartContent(tag=[f"^{tag}$" for tag in tags])) for title, tags in CHARTS
    ]
    layout = Layout(category=[Category(title="training and test", chart=charts)])
    tensor = make_tensor_proto(layout.SerializeToString())
    value = Summary.Value(tag=metadata.CONFIG_SUMMARY_TAG, metadata=metadata.create_summary_metadata(), tensor=tensor)
    return Summary(value=[value])
