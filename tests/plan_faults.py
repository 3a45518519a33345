"""Deliberate faults in what a plan says of an experiment before it runs, and the tests that are to notice each."""

from tests.fault import Fault, fault

PLAN = "tests/tune_jobs/grid/test_plan.py"
FORECAST = "tests/tune_jobs/grid/test_forecast.py"
EXPERIMENT = "tests/tune_jobs/grid/test_experiment.py"

PLAN_FAULTS: tuple[Fault, ...] = (
    fault(
        "hours-of-finished-trials",
        "the hours of a plan are unknown as soon as one of its trials is finished",
        "tune_jobs/grid/plan.py",
        '[planned.hours for planned in self.trials if planned.state != "finished"]',
        "[planned.hours for planned in self.trials]",
        PLAN,
    ),
    fault(
        "one-view-of-test-images",
        "the hours of a plan have one view of each test image, however many are tested",
        "tune_jobs/grid/plan.py",
        "VIEWS[config.data.test_crops] / config.run.evaluation_epochs",
        "1 / config.run.evaluation_epochs",
        "tests/tune_jobs/grid/test_imagenet_experiments.py",
    ),
    fault(
        "checkpoints-by-worker-hours",
        "what a trial of several workers sends to storage is reckoned as if it took all of their hours",
        "tune_jobs/grid/plan.py",
        "3600 * hours / config.run.workers, steps",
        "3600 * hours, steps",
        PLAN,
    ),
    fault(
        "batch-in-parts-as-a-whole",
        "a run whose batches are done in parts is taken to keep what a whole batch would",
        "tune_jobs/grid/packing.py",
        "data.batch_size // data.accumulation * network.channels",
        "data.batch_size * network.channels",
        "tests/tune_jobs/grid/test_packing.py",
    ),
    fault(
        "launcher-of-all-epochs",
        "a forecast has the launcher busy with epochs that are done",
        "tune_jobs/grid/forecast.py",
        "config.run.epochs * left / planned.steps",
        "config.run.epochs",
        FORECAST,
    ),
    fault(
        "head-without-what-is-finished",
        "the memory of the head is reckoned without the trials that are finished",
        "tune_jobs/grid/forecast.py",
        "_limits(trials, requests, times, len(plan.trials))",
        "_limits(trials, requests, times, len(trials))",
        FORECAST,
    ),
    fault(
        "conditions-of-the-document-alone",
        "a row beside a paper's number alone is not held to the conditions of that number",
        "tune_jobs/grid/experiment.py",
        "if cell.reference is not None or cell.paper is not None:",
        "if cell.reference is not None:",
        EXPERIMENT,
    ),
    fault(
        "parts-not-told-apart",
        "an update that is done in parts is taken to cost what one in a whole does",
        "tune_jobs/grid/calibration.py",
        "(data.batch_size, data.accumulation, data.size)",
        "(data.batch_size, data.size)",
        PLAN,
    ),
    fault(
        "what-all-parts-keep",
        "what one part of a batch has kept counts beside what the next one keeps",
        "tune_jobs/grid/calibration.py",
        "held -= self.size if holders[self.address] == 0 else 0",
        "pass",
        PLAN,
    ),
)
