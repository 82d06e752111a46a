"""How far a run is and how good: status, similarity, confidence, figures, verdict, report, evaluation.

May use `tasks` and all that these may. Changes no map. `status` knows no torch, so that asking is quick.
"""
