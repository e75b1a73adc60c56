"""Masks over their pictures with OpenCV, in a window or into a video file.

    python examples/overlay.py tcp://127.0.0.1:5570 gate             # a window; needs opencv-python
    python examples/overlay.py tcp://127.0.0.1:5570 gate out.mp4 200 # 200 frames into a file

Pictures come as JPEG on a topic of their own; the daemon makes them only while there are subscribers.
"""

import sys
from itertools import islice

import cv2
import numpy as np

from streamseg import subscribe

OPACITY = 0.5


def overlay(picture, mask, label_set):
    """An (H, W, 3) BGR picture with each class tinted in its colour; unknown pixels stay as they are."""
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(label_set.classes)] = [c.colour[::-1] for c in label_set.classes]
    labels = mask.at(picture.shape[:2]).labels
    tinted = cv2.addWeighted(picture, 1 - OPACITY, palette[labels], OPACITY, 0)
    return np.where(labels[..., None] < len(label_set.classes), tinted, picture)


def main(endpoint, stream, path=None, frames=None):
    writer = None
    with subscribe(endpoint, [stream], pictures=True) as masks:
        for mask in islice(pictured(masks), int(frames) if frames else None):
            found, picture = mask
            shown = overlay(picture, found, masks.label_set(found.label_set))
            if path is None:
                cv2.imshow(stream, shown)
                if cv2.waitKey(1) == ord("q"):
                    break
                continue
            if writer is None:
                writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"mp4v"), 25, shown.shape[1::-1])
            writer.write(shown)
    if writer is not None:
        writer.release()


def pictured(masks):
    """Yield (mask, BGR picture); a mask whose picture was left out, since newer ones came, is skipped."""
    for mask in masks:
        picture = masks.picture(mask)
        if picture is not None:
            yield mask, cv2.imdecode(np.frombuffer(picture.jpeg, np.uint8), cv2.IMREAD_COLOR)


if __name__ == "__main__":
    main(*sys.argv[1:])
