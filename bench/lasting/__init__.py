"""The parts of `bench/soak`: servers, clients, faults, measurements."""
