"""Every record that the code writes is what its schema says, and nothing in a schema is invented."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from cluster.storage.local import LocalStorage
from resnet_dist import custom_code as custom
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.data.dataset import dataset_fingerprint, open_dataset
from resnet_dist.errors import DivergedError
from resnet_dist.records.recorder import Recorder, record_failure
from resnet_dist.storage.interface import TrialKeys, experiment_key
from resnet_dist.training import loop as training
from resnet_dist.training.energy import Counter, EnergyMeter
from resnet_dist.workers import alone
from tests.imagenet_layout import small_shards
from tests.small_runs import small_config, small_dataset
from tests.stored_records import faults, faults_of_experiment, records
from tests.tune_jobs.recorded import TWO_ROWS, experiment_from
from tune_jobs.grid.experiment import experiment_record
from tune_jobs.results.experiment_record import record_single_run, with_earlier_plans
from tune_jobs.results.schemas import RECORDS, record_schema, schema_text, settings_schema


class Kept(LocalStorage):
    """A directory that also keeps every object that was ever written."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.written: list[tuple[str, bytes]] = []

    def put(self, key: str, data: bytes) -> None:
        self.written.append((key, data))
        super().put(key, data)

    def create(self, key: str, data: bytes) -> bool:
        self.written.append((key, data))
        return super().create(key, data)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """A run with a validation set and a solver of its own, one that diverged, one from shards, records of a search.

    They seem to run on a GPU, which has an energy counter, or beside others.
    """
    storage = Kept(tmp_path_factory.mktemp("results"))
    counter = Counter("GPU-a", lambda: 1000.0)
    dataset = small_dataset(train=48, test=10)
    dataset = replace(
        dataset, validation_images=dataset.test_images.clone(), validation_labels=dataset.test_labels.clone()
    )
    code = {"own.py": "import torch\ndef sgd(weights, solver): return torch.optim.SGD(weights, solver.learning_rate)"}
    custom.install(code)
    own = {"solver__kind": "own:sgd", "solver__learning_rate": 0.1}
    shards = small_config(data__source=f"shards:{small_shards(tmp_path_factory.mktemp('shards'))}").data
    streamed = {"data__source": shards.source, "data__fingerprint": dataset_fingerprint(shards)}
    for settings in ({"data__holdout": 10} | own, {"run__seed": 1, "solver__learning_rate": 1e30}, streamed):
        config = small_config(run__precision="float32", **settings)
        recorder = Recorder(storage, "runs", "run", config, scheduler="asha", code=code)
        recorder.images = dataset.counts()
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(training, "energy_meter", lambda workers: EnergyMeter(workers, counter))
                images = open_dataset(config.data) if config.data.is_streamed else dataset
                training.train(config, images, replace(alone("cpu"), side_by_side=2), recorder)
        except DivergedError as error:
            recorder.fail("diverged", str(error))
        record_single_run(storage, "runs", config, "run")
    custom.install({})
    experiment = experiment_from(TWO_ROWS, storage.root, overrides={"data.flip": "false"}, epochs=3)
    record = experiment_record(experiment, 2, {"data.flip": "false"}, "asha")
    storage.put(experiment_key("two-rows"), json.dumps(record).encode())
    record = with_earlier_plans(storage, record | {"planned_seeds": 3})
    storage.put(experiment_key("two-rows"), json.dumps(record).encode())
    record_failure(storage, TrialKeys("two-rows", next(iter(record["trials"]))), "early-stopped", "by a search", 1)
    return storage


def test_every_record_that_is_written_is_as_its_schema_says(storage: Kept) -> None:
    known = [(key, data) for key, data in storage.written if key.rpartition("/")[2] in RECORDS]
    assert {key.rpartition("/")[2] for key, _ in known} == RECORDS.keys()
    assert [fault for key, data in known for fault in faults(key, data)] == []


def test_nothing_but_records_of_the_layout_is_left(storage: Kept) -> None:
    assert faults_of_experiment(storage, "runs") == []


def test_no_schema_describes_what_is_never_written(storage: Kept) -> None:
    for name, schema in RECORDS.items():
        written = [record for key, data in storage.written if key.endswith(f"/{name}") for record in records(key, data)]
        assert record_schema(schema)["properties"].keys() == set().union(*written), name


def test_another_property_or_a_missing_one_is_noticed(storage: Kept) -> None:
    key, data = next((key, data) for key, data in storage.written if key.endswith("/result.json"))
    record = json.loads(data)
    assert list(faults(key, json.dumps(record | {"another": 1}).encode()))
    assert list(faults(key, json.dumps(record | {"top1_error": 8.29}).encode()))
    del record["steps"]
    assert list(faults(key, json.dumps(record).encode()))


def test_the_settings_schema_is_that_of_the_configuration() -> None:
    assert record_schema("settings") == settings_schema(), "run: python -m tune_jobs.results.schemas"
    packaged = Path(__file__).parents[3] / "tune_jobs" / "schemas"
    assert (packaged / "settings.json").read_text() == schema_text(settings_schema())


def test_every_schema_is_a_valid_one_and_describes_its_numbers() -> None:
    for name in (*RECORDS.values(), "settings"):
        schema = record_schema(name)
        Draft202012Validator.check_schema(schema)
        assert schema["$id"] == f"{name}.json"
    for name in ("metrics", "result"):
        assert all(described(record_schema(name)["properties"])), name


def described(properties: dict[str, Any]) -> Iterator[bool]:
    return ("description" in schema for schema in properties.values())


def test_the_defaults_are_valid_settings() -> None:
    Draft202012Validator(record_schema("settings")).validate(TrainingConfig().to_dict())
