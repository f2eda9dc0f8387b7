"""The L4 tier: ``process`` is its entry point, ``dataplane/`` its Rust crate."""
