"""Other protocols than HTTP through a running node: client and server are other people's."""
