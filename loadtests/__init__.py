"""Load tests with Locust: `python -m loadtests` (docs/load-tests.md).

Layout: `plan` is what a run is asked to do, `target` where it may go, `local` starts a target on
this machine. `run` starts Locust as a process of its own, which alone reads `locustfile`, `users`,
`shapes` and `recorder`: Locust patches the standard library (gevent), and nothing here may be
patched. `seconds` is what both sides know of a second of load. `scrape` reads Weirgate's own
figures meanwhile; `objectives` judges, `report` draws. `background` is for drills, `tiers` compares
layer 4 with layer 7.
"""
