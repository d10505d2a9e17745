"""stub"""


def knn_accuracy(a, b, c, d, *, num_classes, k=20, temperature=0.07):
    return 0.5
