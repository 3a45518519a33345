"""Code of the user's own that an experiment or a run names: read, checked, and bound to configurations by its text."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from resnet_dist import custom_code
from resnet_dist.configuration.code import CodeConfig
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import ConfigurationError
from tune_jobs.grid.experiment_file import Experiment, naming, with_configs


def bind_experiment(experiment: Experiment, asked: Experiment | str) -> Experiment:
    """The experiment with the fingerprint of its cells' code in their configurations, the code installed and checked.

    Modules are looked for beside the file that was asked for, if it was one, then in the current directory.
    """
    if not any(custom_code.named(cell.config) for table in experiment.tables for cell in table.cells):
        for table in experiment.tables:
            for cell in table.cells:
                _bound(cell.config, set())
        return experiment
    beside = [Path(asked).absolute().parent] if isinstance(asked, str) else []
    folders = list(dict.fromkeys([*beside, Path.cwd()]))
    everything: dict[str, str] = {}
    for table in experiment.tables:
        for cell in table.cells:
            with naming(f"table {table.name!r}, cell {cell.label!r}"):
                everything |= custom_code.collect(custom_code.named(cell.config), folders)
    custom_code.install(everything)
    checked: set[str] = set()
    return with_configs(experiment, lambda config: _bound(config, checked))


def bind_config(config: TrainingConfig, modules: Mapping[str, str] | None = None) -> TrainingConfig:
    """The same for one run, whose modules are looked for in the current directory unless they are given."""
    if names := custom_code.named(config):
        custom_code.install(custom_code.collect(names, [Path.cwd()]) if modules is None else modules)
    return _bound(config, set())


def code_of(config: TrainingConfig) -> dict[str, str]:
    """The text of a bound configuration's modules, which travels with its job."""
    return custom_code.part(custom_code.installed(), custom_code.named(config).values())


def _bound(config: TrainingConfig, checked: set[str]) -> TrainingConfig:
    if not custom_code.named(config):
        if config.code.fingerprint:
            raise ConfigurationError(
                f"code.fingerprint: {config.code.fingerprint!r} is of no code, since no setting names any; leave it out"
            )
        return config
    found = custom_code.required_fingerprint(config, custom_code.installed())
    config = replace(config, code=CodeConfig(found))
    plain = config.to_dict()
    key = repr([plain["network"], plain["batch_norm"], plain["solver"], plain["run"]["exact"], found])
    if key not in checked:
        from resnet_dist.training.custom_checks import check_code

        check_code(config)
        checked.add(key)
    return config
