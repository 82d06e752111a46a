"""The panel that starts registrations and previews them. May use `shared`, and no other panel."""
