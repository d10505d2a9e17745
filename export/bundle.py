"""`viewfold export`: from a run to a bundle that has been checked with the very code that will serve it.

Everything is written beside its place; the manifest, without which a folder is no bundle, comes
last, after all checks; then the folder is renamed. A failed or killed export leaves nothing that
looks like a bundle.
"""

from export import classify, embed
from export.config import ExportConfig
from export.target import target
from serving import bundle as contract
from serving.bundle import Bundle
from training import checkpoint
from training.progress import Progress, Stopwatch


def export(settings: ExportConfig) -> Bundle:
    """Make, verify and put into place the bundle of a run: a classifier's (classify.py), or an encoder's (embed.py).

    Raises:
        ExportError: the place is taken, the mode is unknown, or the graphs do not say what torch
            says.
        TrainingError: the run cannot be read.
    """
    progress, watch = Progress(), Stopwatch()
    embeds = settings.embed or checkpoint.made_by(settings.run) == "pretrain"
    write = embed.writer(settings) if embeds else classify.writer(settings)
    with target(settings) as part:
        manifest = write(part, progress)
        (part / contract.MANIFEST).write_text(contract.encode(manifest), encoding="utf-8")
        contract.read(part)
    progress.say(f"exported {settings.out} in {watch.seconds:.1f} s")
    return contract.read(settings.out)
