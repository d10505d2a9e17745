"""What people write to put the same graph behind HTTP, as the documentation of each library shows it.

Each file is a server by itself. It reads the graph's path from CONTENDER_GRAPH, and from CONTENDER_SIDE the side of the
square picture that the graph takes; it answers POST with one image by a JSON object with the class and its probability.
"""
