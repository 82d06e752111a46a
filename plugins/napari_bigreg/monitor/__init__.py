"""The panel that watches a run. May use `shared`, and no other panel."""
