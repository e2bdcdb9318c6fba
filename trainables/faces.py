"""Face identity: the largest face of an image, found, turned upright, and embedded.

The networks are OpenCV's: YuNet (MIT) finds faces, SFace (Apache-2.0) tells who they are. OpenCV is no dependency of ours: where it or
the two ONNX files are missing, the metric is left out. Nothing here compares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainables.activity import beat
from trainables.errors import ModelError
from trainables.features import Images
from trainables.metric_weights import FACE_DETECTOR, FACE_RECOGNISER

FaceOf = Callable[[np.ndarray], np.ndarray | None]
"""RGB uint8 (h, w, 3) -> the embedding (d,) of its largest face, or None where there is none."""


class FaceImages:
    """Images -> (n, d) unit vectors of their largest faces; a row of NaN where no face is found."""

    def __init__(self, digest: str, face_of: FaceOf) -> None:
        self.digest = f"face {digest}"
        self._face_of = face_of

    def __call__(self, images: Images) -> Tensor:
        faces = []
        for image in np.asarray(images):
            beat()
            faces.append(self._face_of(image))
        width = next((len(face) for face in faces if face is not None), 1)
        rows = [np.full(width, np.nan) if face is None else face / np.linalg.norm(face) for face in faces]
        return torch.from_numpy(np.stack(rows).astype(np.float32))


def opencv_faces(folder: Path) -> FaceOf:
    """The two networks in this folder, on the CPU.

    Raises: ModelError if OpenCV cannot read them."""
    import cv2

    try:
        detector = cv2.FaceDetectorYN.create(str(folder / FACE_DETECTOR), "", (320, 320))
        recogniser = cv2.FaceRecognizerSF.create(str(folder / FACE_RECOGNISER), "")
    except cv2.error as error:
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        raise ModelError(f"{folder} must hold YuNet and SFace as ONNX files, but OpenCV says: {reason}. Download them again.") from None

    def face_of(image: np.ndarray) -> np.ndarray | None:
        picture = np.ascontiguousarray(image[..., ::-1])  # OpenCV's order is BGR
        detector.setInputSize((image.shape[1], image.shape[0]))
        faces = detector.detect(picture)[1]
        if faces is None:
            return None
        largest = max(faces, key=lambda face: face[2] * face[3])  # x, y, width, height, five landmarks, score
        return recogniser.feature(recogniser.alignCrop(picture, largest)).flatten()

    return face_of
