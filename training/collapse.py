"""stub"""

import torch


def feature_std(features):
    f = torch.nn.functional.normalize(features, dim=1)
    return (f.std(0).mean() * f.shape[1] ** 0.5).item()


def effective_rank(features):
    return 1.0


def warning(std):
    return None
