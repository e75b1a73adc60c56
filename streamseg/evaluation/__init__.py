"""Reading labelled folders and scoring label masks against them; numpy and OpenCV only."""

from streamseg.evaluation.dataset import IGNORE, LabelledFolder, Sample
from streamseg.evaluation.metrics import Scores, confusion_matrix, evaluate, scores_of

__all__ = ["IGNORE", "LabelledFolder", "Sample", "Scores", "confusion_matrix", "evaluate", "scores_of"]
