"""Layer 4 against layer 7: `python -m loadtests.tiers` writes docs/l4-against-l7.md.

Layout: `ways` starts one application and the four ways to it, `measure` puts load on them by turns,
`sights` observes what each way can see and do, `words` makes the tables.
"""
