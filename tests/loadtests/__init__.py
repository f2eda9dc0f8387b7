"""Load tests and the applications of deploy/compose: each run as a user runs it."""
