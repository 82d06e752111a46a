"""The panel that judges a result. May use `shared`, and no other panel."""
