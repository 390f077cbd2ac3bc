"""What agenttune costs and how fast it answers: `python -m benchmarks.core`."""
