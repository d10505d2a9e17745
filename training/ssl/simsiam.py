"""SimSiam: one view's projection predicted from the other's, without a second network (Chen and He, arXiv 2011.10566).

Nothing but the stopped gradient and the predictor keeps it from giving every image the same projection.
"""

from torch import Tensor, nn

from training.ssl.cosine import paired_cosines
from training.ssl.heads import mlp
from training.ssl.method import Gather, Method, Pair


def simsiam_loss(prediction: Pair, projection: Pair) -> Tensor:
    """½ D(p_1, stop(z_2)) + ½ D(p_2, stop(z_1)), D the negative cosine, mean over the batch (equations 1 to 4).

    prediction, projection: (b, d) each. Returns a scalar in [-1, 1]. The projections carry no gradient.
    """
    (p_1, p_2), (z_1, z_2) = prediction, projection
    return -(paired_cosines(p_1, z_2.detach()) + paired_cosines(p_2, z_1.detach())).mean() / 2


class SimSiam(Method):
    """A projector of three layers, and a predictor with a bottleneck of a quarter of its width (section 3).

    AugSelf's released code takes two layers on STL-10 and three on ImageNet-100; we take the paper's three. The last
    BatchNorm has no weights, as in SimSiam's released code; AugSelf's has them.
    """

    def __init__(self, num_features: int, *, hidden: int = 2048, projection: int = 2048) -> None:
        super().__init__()
        self.projector = nn.Sequential(
            mlp((num_features, hidden, hidden, projection), last_bias=False),
            nn.BatchNorm1d(projection, affine=False),
        )
        self.predictor = mlp((projection, max(1, projection // 4), projection))

    def forward(self, features: Pair, views: Pair, labels: Tensor, gather: Gather) -> Tensor:
        """As `Method.forward`, of the own rows."""
        projection = self.projector(features[0]), self.projector(features[1])
        prediction = self.predictor(projection[0]), self.predictor(projection[1])
        return simsiam_loss(prediction, projection)

    def steady(self) -> list[nn.Parameter]:
        """The predictor's: it is to keep up with the projections, which a rate that decays hinders (section 4.2)."""
        return list(self.predictor.parameters())
