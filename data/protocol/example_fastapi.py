"""The same recommender over HTTP, by FastAPI: `cd data/protocol; uvicorn example_fastapi:app --port 8765`.

Then `crs run -p recommender_model=http://127.0.0.1:8765/reply`.
"""

from fastapi import FastAPI
from newest import reply

app = FastAPI()


@app.post("/reply")
def answer(request: dict) -> dict:
    """Any function of the turns answers here; its keys are those of README.md."""
    return reply(request["turns"])
