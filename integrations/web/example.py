"""An application that takes only good avatars:

uvicorn qinsight_plugin.integrations.web.example:app
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, FastAPI

from . import Accepted, ImageGate

app = FastAPI()
gate = ImageGate(min_score=3.2)


@app.post("/avatar")
async def avatar(picture: Annotated[Accepted, Depends(gate)]) -> dict[str, object]:
    return {"stored": picture.name, "bytes": len(picture.data), "score": picture.report.value}
