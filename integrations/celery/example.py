"""A worker whose queue is a folder, so that nothing else need be installed to try it:

celery --app qinsight_plugin.integrations.celery.example worker --concurrency 1
python -m qinsight_plugin.integrations.celery.example photo.jpg
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from celery import Celery

from . import gate_picture

# Nobody else may write into it: who can queue a task has the worker read what file they like.
usual = Path.home() / ".cache" / "qinsight" / "queue"
folder = Path(os.environ.get("QINSIGHT_QUEUE", usual))
folder.mkdir(mode=0o700, parents=True, exist_ok=True)
for name in ("messages", "results", "control"):
    (folder / name).mkdir(exist_ok=True)
messages = str(folder / "messages")
app = Celery(
    broker="filesystem://",
    backend=(folder / "results").as_uri(),
    broker_transport_options={
        "data_folder_in": messages,
        "data_folder_out": messages,
        "control_folder": str(folder / "control"),  # else ./control, wherever that is
    },
)
app.set_default()

if __name__ == "__main__":
    asked = [gate_picture.delay(path, min_score=3.2) for path in sys.argv[1:]]
    for result in asked:
        print(json.dumps(result.get(timeout=60)))
