"""What `bench/run` is made of: programs under test, load, tests, and the table."""
