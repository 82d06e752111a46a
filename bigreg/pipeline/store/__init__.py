"""What a run is on disk: its attributes, the status of its blocks, its lock, what is damaged, what it was made of.

May use bigreg's packages for files, images and configuration. Knows no frames, no levels and no task, and imports no
torch: whoever asks how a run goes should not wait.
"""
