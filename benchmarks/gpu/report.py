"""The figures of a GPU as a page, each against what it is to reach."""

from typing import Any

from tune_jobs.grid.experiment import load_experiment

SEEDS = 5
REACH = {
    "20 layers": "at most 60 s",
    "gain": "at least 3 ×",
    "110 layers": "at most 330 s",
    "study": "at most 8 h",
    "ceiling": "at least 0.95",
    "evaluation": "at most 8 %",
    "agreement": "at most 1e-9",
}
STEPS = 78_125
"""Updates of 200 epochs of 50,000 images in batches of 128."""


def markdown(found: dict[str, Any]) -> str:
    """What has been found so far."""
    machine = found.get("machine", {})
    lines = [
        f"# {machine.get('device')}, torch {machine.get('torch')}, CUDA {machine.get('cuda')}, "
        f"cuDNN {machine.get('cudnn')}, Python {machine.get('python')}, commit {machine.get('commit')}",
        "",
    ]
    if tests := found.get("tests"):
        lines += [f"Tests of CUDA: {tests['result']} ({tests['seconds']:.0f} s)", ""]
    lines += _targets(found) + _steps(found) + _packing(found) + _training(found)
    return "\n".join(lines) + "\n"


def _targets(found: dict[str, Any]) -> list[str]:
    rows = []
    times, epoch = found.get("milliseconds of a step", {}), found.get("epoch")
    if epoch:
        rows.append(("20 layers, 200 epochs, alone", f"{epoch['200 epochs']:.0f} s", REACH["20 layers"]))
        rows.append(("evaluation's share of an epoch", f"{100 * epoch['share']:.1f} %", REACH["evaluation"]))
    if "110 layers" in times:
        seconds = times["110 layers"]["captured"] * STEPS / 1e3
        rows.append(("110 layers, 200 epochs, alone, without evaluation", f"{seconds:.0f} s", REACH["110 layers"]))
    packed = {name: figures for name, figures in found.get("side by side", {}).items() if "gain" in figures}
    if packed:
        name, best = max(packed.items(), key=lambda item: item[1]["gain"])
        rows.append((f"20 layers, {name}: runs an hour", f"{best['gain']:.2f} ×", REACH["gain"]))
        if (hours := study_hours(times, best["gain"])) is not None:
            rows.append((f"study, {SEEDS} seeds, at that gain", f"{hours:.1f} h", REACH["study"]))
    if "20 layers" in times:
        rows.append(
            (
                "20 layers, end to end against the ceiling",
                f"{times['20 layers']['of the ceiling']:.3f}",
                REACH["ceiling"],
            )
        )
    if agreement := found.get("agreement in float64"):
        what = f"GPU against CPU, float64, {agreement['steps']} steps"
        rows.append((what, f"{agreement['difference']:.1e}", REACH["agreement"]))
        if "without cuDNN" in agreement:  # earlier results have it not
            rows.append((f"{what}, without cuDNN", f"{agreement['without cuDNN']:.1e}", ""))
    if conventional := found.get("conventional"):
        ratio = conventional["conventional"] / conventional["captured"]
        rows.append(("20 layers against the conventional trainer", f"{ratio:.1f} ×", ""))
    return _table(("what", "measured", "to reach"), rows)


def study_hours(times: dict[str, Any], gain: float) -> float | None:
    """Hours of the study at the measured steps: of other depths in proportion, of other blocks as the same depth's."""
    known: dict[int, float]
    known = {int(name.split()[0]): figures["captured"] for name, figures in times.items() if name.endswith("layers")}
    if len(known) < 2:
        return None
    low, high = min(known), max(known)
    slope = (known[high] - known[low]) / (high - low)
    cells = {cell.config.trial_id(): cell.config for table in load_experiment("study").tables for cell in table.cells}
    depths = [config.network.depth for config in cells.values()]
    milliseconds: float = sum(known.get(depth, known[low] + slope * (depth - low)) for depth in depths)
    return SEEDS * milliseconds * STEPS / gain / 3.6e6


def _steps(found: dict[str, Any]) -> list[str]:
    times: dict[str, dict[str, float]] = found.get("milliseconds of a step", {})
    names = ("captured", "eager", "ceiling", "of the ceiling")
    rows = [(what, *(f"{values[n]:.3f}" if n in values else "" for n in names)) for what, values in times.items()]
    return _table(("milliseconds of a step", *names), rows)


def _packing(found: dict[str, Any]) -> list[str]:
    rows = [(n, f"{v['round']:.3f}", f"{v['gain']:.2f} ×") for n, v in found.get("side by side", {}).items()]
    return _table(("20 layers", "ms until each has made a step", "runs an hour"), rows)


def _training(found: dict[str, Any]) -> list[str]:
    training = found.get("training")
    if not training or not training.get("runs"):
        return []
    rows = [
        (
            str(seed),
            run.get("error") or f"{100 * run['top1_error']:.2f} %",
            f"{run.get('seconds', 0):.0f}",
            run["trial"],
        )
        for seed, run in enumerate(training["runs"])
    ]
    head = f"{training['seeds']} seeds side by side: {training['seconds']:.0f} s"
    return [head, "", *_table(("seed", "test error", "seconds of training", "trial"), rows)]


def _table(head: tuple[str, ...], rows: list[Any]) -> list[str]:
    if not rows:
        return []
    lines = [head, tuple("-" * 3 for _ in head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]
