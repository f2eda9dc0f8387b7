"""What is in deploy/, run for real where this host lets it run."""
