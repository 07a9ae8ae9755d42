"""What tests share and what is no test: worlds, tiny models, the plain oracle, the loopback Hub."""
