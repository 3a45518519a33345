"""What training costs here, beside what people would use instead and beside the ceiling: `python -m benchmarks`."""
