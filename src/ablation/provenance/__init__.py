"""Where a result comes from: fingerprints, code hashes, manifests and run records."""
