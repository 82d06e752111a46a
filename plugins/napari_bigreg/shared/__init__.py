"""What the panels and the doors share: layers of a run, slices, threads, the base of a panel. Knows no panel.

Panels are opened from here by name (see `named`), so that one may lead to another without knowing it.
"""
