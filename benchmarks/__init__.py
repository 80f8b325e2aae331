"""How fast adapters are applied and taken back: `python -m benchmarks apply`. Not installed with the library."""
