"""The panel of landmarks. May use `shared`, and no other panel."""
