"""What a run will cost, before it starts: every stage foreseen, its bytes and its work, followed in a simulation.

May use `tasks` and `judging` for the shapes of what they read and write. Reads no voxel and knows no client.
"""
