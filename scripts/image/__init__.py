"""Makes the container images: base, wheels, list of parts, and the build itself."""
