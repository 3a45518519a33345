"""Deliberate faults in what devices and places workers have, and the tests that are to notice each."""

from tests.fault import Fault, fault

GPUS = "tests/resnet_dist/test_gpus.py"
GRID = "tests/tune_jobs/grid/test_run.py"

GPU_FAULTS: tuple[Fault, ...] = (
    fault(
        "backend-of-the-driver",
        "the process group's backend is what the driver expects, not what the workers' devices need",
        "resnet_dist/process_group.py",
        "backend = backend_of(worker_group.execute(_device))",
        'backend = "nccl"',
        GPUS,
    ),
    fault(
        "places-of-failed-workers",
        "workers that form no process group keep their places, and other trials wait for those for ever",
        "resnet_dist/process_group.py",
        "            worker_group.shutdown()",
        "            pass",
        GPUS,
    ),
    fault(
        "gpu-because-visible",
        "a worker to which Ray has given no GPU computes on one that it can see",
        "resnet_dist/gpus.py",
        "if not gpus or is_rehearsal():",
        'gpus = gpus or os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")\n    if is_rehearsal():',
        GPUS,
    ),
    fault(
        "first-visible-gpu",
        "each worker of a node computes on the first GPU that it can see",
        "resnet_dist/gpus.py",
        'visible.split(",").index(gpu) if visible',
        "0 if visible",
        GPUS,
    ),
    fault(
        "architecture-by-number",
        "a GPU counts as fit if PyTorch is built for any older one",
        "resnet_dist/gpus.py",
        '(kind == "compute" or built[0] == capability[0])',
        "True",
        GPUS,
    ),
    fault(
        "gpus-of-this-machine-unasked",
        "whether PyTorch can use the GPUs is not asked where the cluster is this machine alone",
        "cluster/ray_cluster/preflight.py",
        "if resources.is_ours and uses_gpu <= {False}:",
        "if resources.is_ours:",
        "tests/cluster/ray_cluster/test_preflight.py",
    ),
    fault(
        "gpu-without-a-cpu",
        "a worker on a GPU counts as placed where no CPU is left for it",
        "cluster/ray_cluster/connection.py",
        'min(cpus, int(resources.get("GPU", 0)))',
        'int(resources.get("GPU", 0))',
        "tests/cluster/ray_cluster/test_connection.py",
    ),
    fault(
        "driver-on-a-gpu",
        "the process that starts a worker group takes a GPU, which its workers wait for",
        "tune_jobs/grid/run.py",
        'return {"memory": DRIVER_MEMORY,',
        'return {"GPU": int(use_gpu), "memory": DRIVER_MEMORY,',
        GRID,
    ),
    fault(
        "one-device-for-all",
        "all trials of a grid use GPUs if there are any, whatever their own run.device says",
        "tune_jobs/grid/run.py",
        "resources.uses_gpu(run.device)]",
        'resources.uses_gpu("auto")]',
        GRID,
    ),
    fault(
        "users-error-tried-again",
        "a trial that fails for what a user has to put right is tried again, with a traceback each time",
        "tune_jobs/grid/run.py",
        'tune.report({"failed": str(error)})  # as it would again',
        "raise",
        "tests/tune_jobs/grid/test_run.py",
    ),
    fault(
        "finished-work-given-again",
        "a worker group that is started again after a trial's end trains it once more, and what is next waits",
        "resnet_dist/worker_group.py",
        "self._closed or (self._asked and self._turn > done)",
        "self._closed or self._turn > done",
        "tests/resnet_dist/test_worker_group.py",
    ),
)
