"""Control maps from pictures: edges, lines, depth, poses … Pure but for model files that are read. Needs OpenCV and
NumPy, which are imported when used, and no torch: the gateway's preview and the engine compute the same."""
