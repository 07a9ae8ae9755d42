"""`make attack`: kills, changed inputs and racing writers, as many as one likes (see `__main__`)."""
