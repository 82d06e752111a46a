"""napari plugin of bigreg: watch a run, judge its result, correct it, start another.

It talks to run stores and to bigreg's public API only, so it is the same for a run of this machine, of a cluster over a
network file system, or on S3. Models know no Qt.
"""
