"""Faults made on purpose in the containers of the demo, while Locust runs: what do clients see?

``faults`` is what is done, one function each with its objective; ``drill`` runs them beside a load
and judges; ``report`` draws each second by second. Run by ``python -m loadtests.drills``, which is
``make drill``.
"""
