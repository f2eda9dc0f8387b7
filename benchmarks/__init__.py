"""What Weirgate costs beside HAProxy, nginx and Envoy: `python -m benchmarks`.

`bars` says what must be reached, `cases` how each figure is made, `subjects` and `clients` what
runs, `processes`, `cpu` and `netns` on what ground, `report` what is said about it.
"""
