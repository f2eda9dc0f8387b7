"""Real origins, a real Weirgate, a strict wire client, certificates, peers and load."""
