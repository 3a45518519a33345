"""Deliberate faults of a line or so, and the tests that are to notice each (`python -m tests.mutations`)."""

from dataclasses import dataclass

UNIT = "tests/resnet_dist/"
LAW_1 = f"{UNIT}test_law_1_worker_count.py::test_workers_train_like_one_in_float64"
LAW_2 = f"{UNIT}test_law_2_interruption.py"
LAW_3 = f"{UNIT}test_law_3_identity.py"
LAW_4 = f"{UNIT}test_law_4_nothing_lost.py"
LAW_5 = f"{UNIT}test_law_5_traceable.py"
BATCH_NORM = f"{UNIT}test_batch_norm.py"
BATCHES = f"{UNIT}test_batches.py"
SOLVERS = f"{UNIT}test_solvers.py"
NETWORKS = f"{UNIT}test_networks.py"
EVALUATION = f"{UNIT}test_evaluation.py"
LEASE = "tests/cluster/test_lease.py"
STATISTICS = "tests/tune_jobs/test_statistics.py"
REPORT = "tests/tune_jobs/test_report.py"
REPORT_FILES = "tests/tune_jobs/test_report_files.py"


@dataclass(frozen=True)
class Fault:
    """Text of one file that is replaced, each piece occurring exactly once."""

    name: str
    description: str
    file: str
    edits: tuple[tuple[str, str], ...]
    tests: tuple[str, ...]
    """Files or tests to run, as pytest names them."""

    def applied(self, text: str) -> str:
        """The file's text with the fault in it. Raises a `ValueError` if the text has changed meanwhile."""
        for old, new in self.edits:
            if text.count(old) != 1:
                raise ValueError(f"{self.name}: {self.file} holds {old!r} {text.count(old)} times, not once")
            text = text.replace(old, new)
        return text


def _fault(name: str, description: str, file: str, old: str, new: str, *tests: str) -> Fault:
    return Fault(name, description, file, ((old, new),), tests)


FAULTS: tuple[Fault, ...] = (
    _fault(
        "biased-running-variance",
        "the running variance is divided by N instead of N - 1",
        "resnet_dist/batch_norm.py",
        "(square / (total - 1)).to(running_var.dtype)",
        "(square / total).to(running_var.dtype)",
        BATCH_NORM,
    ),
    _fault(
        "local-count-forward",
        "batch norm divides by the worker's own count instead of the global one",
        "resnet_dist/batch_norm.py",
        "finish(*combined, running_mean",
        "finish(message[-1].clamp(min=2), *combined[1:], running_mean",
        BATCH_NORM,
    ),
    _fault(
        "local-count-backward",
        "batch norm's backward pass divides by the worker's own count",
        "resnet_dist/batch_norm.py",
        "(sums / total).to(statistic)",
        "(sums / max(1, input.numel() // len(weight))).to(statistic)",
        BATCH_NORM,
    ),
    _fault(
        "variance-by-cancellation",
        "variances are the mean of squares less the square of the mean",
        "resnet_dist/batch_norm.py",
        "square = (squares + counts * (means - mean).square()).sum(0)",
        "square = (squares + counts * means.square()).sum(0) - count * mean.square()",
        BATCH_NORM,
    ),
    _fault(
        "eps-outside-the-root",
        "batch norm's backward pass adds eps to the standard deviation instead of the variance",
        "resnet_dist/batch_norm.py",
        "(variance + eps).rsqrt()",
        "1 / (variance.sqrt() + eps)",
        BATCH_NORM,
    ),
    _fault(
        "flip-before-shift",
        "images are flipped before they are shifted",
        "resnet_dist/batches.py",
        "reach - shifts[:, 1]]",
        "reach - torch.where(flips, -shifts[:, 1], shifts[:, 1])]",
        BATCHES,
    ),
    _fault(
        "shift-range",
        "the greatest shift to one side never occurs",
        "resnet_dist/batches.py",
        "2 * self.data.shift + 1)",
        "2 * self.data.shift)",
        BATCHES,
    ),
    _fault(
        "standardise-last",
        "images are standardised after the shift, so that the gap is not zero",
        "resnet_dist/batches.py",
        "shift_and_flip(self.standardise(self.images[indices]), shifts, flips, self.order.data.shift)",
        "self.standardise(shift_and_flip(self.images[indices], shifts, flips, self.order.data.shift))",
        BATCHES,
    ),
    _fault(
        "sampling-by-rank",
        "which images are drawn depends on the worker",
        "resnet_dist/batches.py",
        "draw = self.order.draw(step)\n        size",
        "draw = self.order.draw(step + 1000 * self.shards.held.start)\n        size",
        BATCHES,
    ),
    _fault(
        "same-permutation",
        "every epoch has the same permutation",
        "resnet_dist/batches.py",
        "Stream.ORDER, epoch, self.plan.images",
        "Stream.ORDER, 0, self.plan.images",
        BATCHES,
    ),
    _fault(
        "weight-decay-rmsprop",
        "RMSprop has weight decay, where Torch7's had none",
        "resnet_dist/configuration.py",
        '"alpha": 0.9, "eps": 1e-8, "weight_decay": 0.0',
        '"alpha": 0.9, "eps": 1e-8, "weight_decay": 1e-4',
        SOLVERS,
    ),
    _fault(
        "alpha-of-torch",
        "RMSprop smooths with torch's default alpha",
        "resnet_dist/solvers.py",
        "alpha=config.alpha",
        "alpha=0.99",
        SOLVERS,
    ),
    _fault(
        "eps-of-torch",
        "Adadelta's eps is not the configured one",
        "resnet_dist/solvers.py",
        "rho=config.rho, eps=config.eps",
        "rho=config.rho, eps=1e-7",
        SOLVERS,
    ),
    _fault(
        "dampened-momentum",
        "momentum without Nesterov is dampened",
        "resnet_dist/solvers.py",
        "dampening=0,",
        "dampening=0 if config.nesterov else config.momentum,",
        SOLVERS,
    ),
    _fault(
        "milestone-off-by-one",
        "the learning rate drops an epoch late",
        "resnet_dist/solvers.py",
        "epoch >= milestone",
        "epoch > milestone",
        SOLVERS,
    ),
    _fault(
        "warm-up-off-by-one",
        "the warm-up lasts 401 iterations",
        "resnet_dist/solvers.py",
        "step < schedule.warmup_iterations",
        "step <= schedule.warmup_iterations",
        SOLVERS,
    ),
    _fault(
        "dynamic-momentum-not-reset",
        "dynamic momentum counts from the run's start instead of each epoch's",
        "resnet_dist/solvers.py",
        "seen = (step - plan.start(plan.epoch(step))) * accumulation + part",
        "seen = step * accumulation + part",
        SOLVERS,
    ),
    _fault(
        "zero-channels-first",
        "shortcut A puts the zero channels before the existing ones",
        "resnet_dist/networks.py",
        "(0, 0, 0, 0, 0, self.extra)",
        "(0, 0, 0, 0, self.extra, 0)",
        NETWORKS,
    ),
    _fault(
        "relu-everywhere",
        "a ReLU follows the addition in every block",
        "resnet_dist/networks.py",
        "F.relu(out) if self.relu_after_addition else out",
        "F.relu(out)",
        NETWORKS,
    ),
    _fault(
        "fan-out",
        "weights are scaled by fan-out instead of fan-in",
        "resnet_dist/initialisation.py",
        "fan_in = module.weight[0].numel()",
        "fan_in = module.weight[:, 0].numel()",
        f"{UNIT}test_initialisation.py",
    ),
    _fault(
        "padded-test-set",
        "the test error counts the test set rounded up to a multiple of the workers",
        "resnet_dist/evaluation.py",
        "totals[:3] / self.total)",
        "totals[:3] / (-(-self.total // self.workers.size) * self.workers.size))",
        EVALUATION,
    ),
    _fault(
        "batch-statistics-in-evaluation",
        "evaluation uses each batch's own statistics",
        "resnet_dist/evaluation.py",
        "network.eval()",
        "network.train()",
        EVALUATION,
    ),
    _fault(
        "sum-not-tree",
        "exact mode adds in the order that the library likes",
        "resnet_dist/exact.py",
        "parts = parts[0::2] + parts[1::2]",
        "parts = parts.sum(0, keepdim=True)",
        f"{UNIT}test_exact.py::test_the_tree_adds_in_pairs",
    ),
    _fault(
        "loss-by-own-count",
        "a worker divides its loss by its own number of images",
        "resnet_dist/training.py",
        'reduction="sum") / size',
        'reduction="sum") / max(1, len(batch.labels))',
        LAW_1,
    ),
    _fault(
        "average-over-workers",
        "gradients are averaged over workers and not summed",
        "resnet_dist/training.py",
        "(loss * self.workers.size).backward()",
        "loss.backward()",
        LAW_1,
    ),
    _fault(
        "no-solver-state",
        "a resumed run has a new solver",
        "resnet_dist/training.py",
        'self.solver.load_state_dict(state["solver"])',
        "pass",
        LAW_2,
    ),
    _fault(
        "no-losses-so-far",
        "a resumed run forgets the losses of the epoch so far",
        "resnet_dist/training.py",
        'losses = state["losses"].to(self.workers.device)',
        'losses = torch.zeros_like(state["losses"])',
        LAW_2,
    ),
    _fault(
        "best-epoch",
        "the result is the best epoch's test error instead of the last's",
        "resnet_dist/training.py",
        "last = lines[-1]\n",
        'last = min(lines, key=lambda line: line["top1_error"])\n',
        f"{UNIT}test_training.py",
    ),
    _fault(
        "finished-run-again",
        "a finished trial is trained again",
        "resnet_dist/training.py",
        "    if result is not None:\n        return dict(result)",
        "    if False:\n        return dict(result)",
        LAW_2,
    ),
    Fault(
        "checkpoint-before-metrics",
        "an epoch's checkpoint is written before its metrics line",
        "resnet_dist/training.py",
        (
            ("            recorder.epoch(line, losses, rates, observe(training, epoch))\n", "            pass\n"),
            (
                "            _checkpoint(training, recorder)\n        if on_epoch:\n",
                "            _checkpoint(training, recorder)\n        if recorder:\n"
                "            recorder.epoch(line, losses, rates, observe(training, epoch))\n        if on_epoch:\n",
            ),
        ),
        (LAW_4,),
    ),
    Fault(
        "result-before-weights",
        "the result is written before the final weights",
        "resnet_dist/recorder.py",
        (
            ("        self.storage.put(self.keys.model, weights)\n", ""),
            (
                "        self._put_json(self.keys.result, result)\n",
                "        self._put_json(self.keys.result, result)\n"
                "        self.storage.put(self.keys.model, weights)\n",
            ),
        ),
        (LAW_4, f"{UNIT}test_recorder.py"),
    ),
    Fault(
        "manifest-before-state",
        "a checkpoint's manifest is written before its state",
        "resnet_dist/checkpoints.py",
        (
            ('        self.storage.put(name + "state.pt", data)\n', ""),
            (
                '        self.storage.put(name + "manifest.json", json.dumps(manifest, indent=1).encode())\n',
                '        self.storage.put(name + "manifest.json", json.dumps(manifest, indent=1).encode())\n'
                '        self.storage.put(name + "state.pt", data)\n',
            ),
        ),
        (f"{UNIT}test_checkpoints.py", LAW_4),
    ),
    _fault(
        "damage-unseen",
        "a checkpoint's hash is not compared",
        "resnet_dist/checkpoints.py",
        "if hashlib.sha256(data).hexdigest() != digest:",
        "if False:",
        f"{UNIT}test_checkpoints.py",
        LAW_2,
    ),
    _fault(
        "identity-without-seed",
        "trials that differ in their seed alone share an identity",
        "resnet_dist/configuration.py",
        '    "run.workers": "law 1',
        '    "run.seed": "",\n    "run.workers": "law 1',
        LAW_3,
    ),
    _fault(
        "commit-of-the-surrounding-repository",
        "an installed package reports the commit of the repository around it",
        "resnet_dist/source.py",
        "if tracked is None or top is None",
        "if top is None",
        LAW_5,
    ),
    _fault(
        "secrets-in-the-patch",
        "files that hold what looks like a credential are put into the patch",
        "resnet_dist/source.py",
        "if looks_like_a_credential(part):",
        "if False:",
        LAW_5,
    ),
    _fault(
        "lease-by-the-holders-clock",
        "a lease is taken over when its holder's own clock says that it is old",
        "cluster/lease.py",
        "found.duration + LARGEST_SKEW",
        "found.duration",
        LEASE,
    ),
    _fault(
        "lease-kept-too-long",
        "a launch that cannot renew its lease works on when others may take it over",
        "cluster/lease.py",
        "now - self._renewed > GIVE_UP * self.holder.duration",
        "False",
        LEASE,
    ),
    _fault(
        "renewal-unseen",
        "who takes a lease over acts at once, though its holder renewed it meanwhile",
        "cluster/lease.py",
        "self._wait_out(self.holder.duration)",
        "pass",
        LEASE,
    ),
    _fault(
        "run-without-a-lease",
        "two launches of `train` work on one trial at the same time",
        "tune_jobs/train_command.py",
        "lease(storage, args.name, on_wait, trial=config.trial_id())",
        "contextlib.nullcontext()",
        "tests/tune_jobs/test_train_command.py",
    ),
    _fault(
        "overwritten-run",
        "a run that began at the same time as another is in storage and in no report",
        "tune_jobs/stored_record.py",
        '_unlisted_runs(storage, name, record["trials"])',
        "()",
        "tests/tune_jobs/test_stored_record.py",
    ),
    _fault(
        "reference-without-spread",
        "the document's single run is taken for its mean: its own spread is left out of the test",
        "tune_jobs/statistics.py",
        "math.sqrt(1 + 1 / sample.n)), sample.n - 1)",
        "math.sqrt(1 / sample.n)), sample.n - 1)",
        STATISTICS,
    ),
    _fault(
        "no-correction",
        "p-values are not corrected for the number of tests in a table",
        "tune_jobs/statistics.py",
        "min(1.0, (len(p_values) - rank) * p_values[index])",
        "p_values[index]",
        STATISTICS,
    ),
    _fault(
        "searched-rows-in-tables",
        "rows among whose trials a scheduler chose have a number",
        "tune_jobs/summary.py",
        'if any(trial.state == "early-stopped" for trial in trials):\n        return None',
        "if False:\n        return None",
        REPORT,
    ),
    _fault(
        "commits-of-the-last-attempt",
        "a trial that went on under another commit is said to be of the last one alone",
        "tune_jobs/mixtures.py",
        'provenance.get("attempts") or [{}]',
        "[{}]",
        REPORT,
    ),
    _fault(
        "formulas-in-spreadsheets",
        "names that begin like formulas reach spreadsheets as they are",
        "tune_jobs/report_csv.py",
        "value.startswith(_FORMULA)",
        "False",
        REPORT_FILES,
    ),
    _fault(
        "evaluation-in-step-time",
        "the step time that Prometheus sees has the evaluation in it",
        "resnet_dist/ray_metrics.py",
        "            self._earlier = None\n            self._set_rate(",
        "            self._set_rate(",
        f"{UNIT}test_ray_metrics.py",
    ),
    _fault(
        "lines-without-their-trial",
        "log lines do not say which trial and worker they speak of",
        "resnet_dist/logs.py",
        "            **_about,\n",
        "",
        f"{UNIT}test_logs.py",
    ),
    _fault(
        "deletions-before-what-replaces",
        "while storage is away, older checkpoints are deleted before the newer one that is left is sent",
        "resnet_dist/spool.py",
        "            self._postpone_deletions()\n",
        "",
        f"{UNIT}test_spool.py",
    ),
    _fault(
        "spool-over-something-newer",
        "what waits on disk is sent although another launch has gone on with the trial",
        "resnet_dist/spooled_storage.py",
        "if digest_of(self.storage.get(self._guard_key)) not in self._spool.expected():",
        "if False:",
        f"{UNIT}test_spooled_storage.py",
    ),
    _fault(
        "damaged-spool-sent",
        "a waiting write that was damaged on disk is sent",
        "resnet_dist/waiting_files.py",
        'said.get("sha256") != hashlib.sha256(data).hexdigest()',
        "False",
        f"{UNIT}test_spool.py",
    ),
    _fault(
        "late-write-stands",
        "a result is written without a look at what a late write may have replaced",
        "resnet_dist/spooled_storage.py",
        "if write is None or write.key == self._result_key:",
        "if write is None:",
        f"{UNIT}test_doubts.py",
    ),
    _fault(
        "looked-too-early",
        "what a late write may have replaced is looked at while such a write can still arrive",
        "resnet_dist/spooled_storage.py",
        "                sleep(pause)\n",
        "",
        f"{UNIT}test_doubts.py",
    ),
    _fault(
        "epochs-of-a-result-not-counted",
        "a finished trial counts although lines of its epochs are missing",
        "tune_jobs/results.py",
        'if len(rows) < result.get("epochs", 0):',
        "if False:",
        "tests/tune_jobs/test_results.py",
    ),
)
