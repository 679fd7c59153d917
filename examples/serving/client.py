"""A client for TensorFlow Serving: photographs in, label maps beside them. Needs Python alone.

python client.py photo.jpg other.png --url http://localhost:8501 --model encnet
"""

import argparse
import base64
import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path


def label_png(image_bytes, url, model="encnet", timeout=60):
    """The label map, as a grey PNG file's bytes, of a JPEG or PNG file's bytes.

    Raises:
        ValueError: the server could not read the image, or the URL is none.
        OSError: the server cannot be reached, or refused the request.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"the URL is {url!r}, expected one that begins with http:// or https://.")
    image = {"image_bytes": {"b64": base64.b64encode(image_bytes).decode()}}
    question = {"signature_name": "from_bytes", "instances": [image]}
    request = urllib.request.Request(
        f"{url.rstrip('/')}/v1/models/{model}:predict",
        json.dumps(question).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            (prediction,) = json.load(answer)["predictions"]
    except urllib.error.HTTPError as error:
        text = error.read().decode(errors="replace")
        raise OSError(f"{url} refused the request ({error.code}): {text}") from None
    except urllib.error.URLError as error:
        raise OSError(f"{url} cannot be reached ({error.reason}); is the server running?") from None
    if not prediction["ok"]:
        raise ValueError(
            "the server could not read it; expected a whole JPEG or PNG file with sides of 32 or more."
        )
    return base64.b64decode(prediction["labels_bytes"]["b64"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="+", type=Path, help="JPEG or PNG files")
    parser.add_argument("--url", default="http://localhost:8501")
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
        beside = labels.with_name(f".{labels.name}.part")
        beside.write_bytes(png)
        os.replace(beside, labels)
        print(labels)
    sys.exit(failed)


if __name__ == "__main__":
    main()
