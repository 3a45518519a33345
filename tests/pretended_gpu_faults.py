"""Deliberate faults in what runs on GPUs alone, and the tests on pretended GPUs that are to notice each."""

from tests.fault import Fault, fault

REHEARSAL = "tests/resnet_dist/test_pretended_cuda.py"
ONE_WORKER = f"{REHEARSAL}::test_one_worker_computes_on_its_gpu_what_it_computes_on_the_cpu"
WHOLE_RUN = f"{REHEARSAL}::test_a_run_on_two_gpus_records_what_one_on_cpus_records_and_the_gpus_and_their_energy"
NO_WAIT = f"{REHEARSAL}::test_a_step_never_waits_for_the_gpu"
NUMERICS = "tests/resnet_dist/training/test_numerics.py"

PRETENDED_GPU_FAULTS: tuple[Fault, ...] = (
    fault(
        "labels-left-on-the-cpu",
        "the labels of an evaluation stay on the CPU",
        "resnet_dist/training/evaluation.py",
        "labels[start:stop].to(workers.device),",
        "labels[start:stop],",
        ONE_WORKER,
    ),
    fault(
        "message-made-on-the-cpu",
        "batch norm's message to the other workers is made on the CPU",
        "resnet_dist/networks/batch_norm.py",
        "dtype=torch.float64, device=images.device)",
        "dtype=torch.float64)",
        f"{REHEARSAL}::test_two_workers_compute_on_two_gpus_what_they_compute_on_cpus",
    ),
    fault(
        "loss-read-in-each-step",
        "each update asks for its loss, and so waits for the GPU",
        "resnet_dist/training/state.py",
        "loss.copy_(self.updates.at(self.step))",
        "loss.fill_(self.updates.at(self.step).sum().item())",
        NO_WAIT,
    ),
    fault(
        "copy-that-waits",
        "what was drawn for a step goes to the GPU from memory that is not pinned",
        "resnet_dist/data/batches.py",
        "            values = values.pin_memory()",
        "            pass",
        NO_WAIT,
    ),
    fault(
        "current-gpu-not-set",
        "a worker's GPU is not the current one, which collectives and new contexts take",
        "resnet_dist/launch.py",
        "    on_device(workers.device)\n",
        "",
        WHOLE_RUN,
    ),
    fault(
        "threads-on-the-first-gpu",
        "the threads of exact mode compute on the first GPU",
        "resnet_dist/training/exact.py",
        "    on_device(workers.device)\n",
        "",
        ONE_WORKER,
    ),
    fault(
        "first-gpu-for-all",
        "every worker of a machine takes its first GPU",
        "resnet_dist/workers.py",
        "return gpu if available",
        "return FIRST_GPU if available",
        f"{REHEARSAL}::test_a_worker_has_the_gpu_that_was_given_to_it",
    ),
    fault(
        "autocast-of-the-cpu",
        "autocast is the CPU's, which changes nothing on a GPU",
        "resnet_dist/training/gradients.py",
        "torch.autocast(self.device.type,",
        'torch.autocast("cpu",',
        ONE_WORKER,
    ),
    fault(
        "checkpoint-wants-its-gpu",
        "a checkpoint is read onto the GPU that it was written on",
        "resnet_dist/records/checkpoints.py",
        'map_location="cpu", ',
        "",
        f"{REHEARSAL}::test_a_checkpoint_of_one_device_loads_on_the_other",
    ),
    fault(
        "classes-left-on-the-gpu",
        "the classes of the test images, which become a picture, stay on the GPU",
        "resnet_dist/training/evaluation.py",
        "totals[4:].long().cpu()",
        "totals[4:].long()",
        f"{REHEARSAL}::test_a_run_that_is_interrupted_goes_on_from_storage_to_the_same_bits",
    ),
    fault(
        "energy-of-the-first-gpu",
        "the energy is that of the machine's first GPU",
        "resnet_dist/training/energy.py",
        "nvml_counter(workers.device)",
        'nvml_counter(torch.device("cuda", 0))',
        WHOLE_RUN,
    ),
    fault(
        "thread-of-an-exact-run-stays",
        "a run after one of exact mode has a single thread, too",
        "resnet_dist/training/numerics.py",
        "torch.set_num_threads(threads)",
        "pass",
        NUMERICS,
    ),
    fault(
        "deterministic-kernels-stay",
        "deterministic kernels of exact mode stay for the process's other runs",
        "resnet_dist/training/numerics.py",
        "        torch.set_deterministic_debug_mode(deterministic)\n",
        "",
        NUMERICS,
    ),
    fault(
        "float32-without-its-digits",
        "on GPUs cuDNN rounds float32 to ten binary digits",
        "resnet_dist/training/numerics.py",
        "allow_tf32=False",
        "allow_tf32=True",
        NUMERICS,
    ),
)
