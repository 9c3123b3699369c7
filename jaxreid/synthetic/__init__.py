"""The embedded data sets: pedestrians drawn by a procedure, in the layouts of Market-1501 and MARS.

`images` and `tracklets` say what to draw, `pedestrian` draws the people, `scene` the rest, and
`drawing` brings them to the disk.
"""
