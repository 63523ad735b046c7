"""The parts of `bench/run`: the programs under test, load, tests, and the table."""
