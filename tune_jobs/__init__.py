"""Many runs: experiments, grids on Ray Tune, results and reports."""
