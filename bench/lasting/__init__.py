"""What `bench/soak` is made of: servers, clients, faults, and the eye on all of it."""
