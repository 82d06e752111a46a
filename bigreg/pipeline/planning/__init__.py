"""What a run will cost, before it starts: every stage foreseen, its bytes and its work, followed in a simulation.

May use `tasks` and `judging` for the shapes of what they read and write. What a stage is called and needs it asks
of the task, as the run does. Knows no client.
"""
