"""A client for TensorFlow Serving: writes the label map next to each photograph. Needs only Python.

python client.py photo.jpg other.png --url http://localhost:8501 --model encnet
"""

import argparse
import base64
import http.client
import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

MAX_ANSWER = 1 << 28  # bytes: more than the label map of any image
MAX_ERROR = 1000


def label_png(image_bytes, url, model="encnet", timeout=60):
    """The label map of an image, as the bytes of a grey PNG file.

    Args:
        image_bytes: the bytes of a JPEG or PNG file.
        url: TensorFlow Serving's REST address.
        model: the model's name there.
        timeout: seconds.

    Raises:
        ValueError: if the server could not read the image, or `url` is invalid.
        OSError: if the server cannot be reached, refused the request, or answers something else.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"the URL must begin with http:// or https://. Received: {url!r}")
    image = {"image_bytes": {"b64": base64.b64encode(image_bytes).decode()}}
    question = {"signature_name": "from_bytes", "instances": [image]}
    request = urllib.request.Request(
        f"{url.rstrip('/')}/v1/models/{model}:predict",
        json.dumps(question).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            received = answer.read(MAX_ANSWER)
    except urllib.error.HTTPError as error:
        text = error.read(MAX_ERROR).decode(errors="replace")
        raise OSError(f"{url} refused the request. Received: {error.code}, {text}") from None
    except urllib.error.URLError as error:
        raise OSError(f"{url} cannot be reached: {error.reason}. Is the server running?") from None
    except http.client.HTTPException as error:
        raise OSError(f"{url} must be TensorFlow Serving. Received: no HTTP, {error!r}") from None
    try:
        (prediction,) = json.loads(received)["predictions"]
        good, png = prediction["ok"], base64.b64decode(prediction["labels_bytes"]["b64"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise OSError(
            f"{url} must answer with one prediction of an exported EncNet. Received: {received[:100]}. "
            "Is it the right model, and was it exported with labels?"
        ) from None
    if not good:
        raise ValueError(
            "the image must be a complete JPEG or PNG file with sides of 32 pixels or more. "
            "Received: a file that the server could not read."
        )
    return png


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="+", type=Path, help="JPEG or PNG files")
    parser.add_argument("--url", default="http://localhost:8501", help="TensorFlow Serving's address")
    parser.add_argument("--model", default="encnet", help="the model's name in TensorFlow Serving")
    options = parser.parse_args()
    failed = False
    for photo in options.photos:
        try:
            png = label_png(photo.read_bytes(), options.url, options.model)
        except (OSError, ValueError) as error:
            print(f"{photo}: {error}", file=sys.stderr)
            failed = True
            continue
        labels = photo.with_name(f"{photo.stem}.labels.png")
        unfinished = labels.with_name(f".{labels.name}.part")
        unfinished.write_bytes(png)
        os.replace(unfinished, labels)
        print(labels)
    sys.exit(failed)


if __name__ == "__main__":
    main()
