"""What only a GPU can show: the tests of CUDA, the times of a step, runs side by side, and training at full length."""
