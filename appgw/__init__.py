"""The L7 tier: ``process`` is its entry point, ``dataplane/`` its Rust crate."""
