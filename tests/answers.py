"""What the server answered, for tests."""

import re
from typing import Any

from serving import schemas


def error(response: Any) -> dict[str, Any]:
    """The error in an answer, whose shape is checked on the way."""
    assert response.status_code >= 400
    assert response.headers["content-type"] == "application/json"
    found = schemas.ErrorAnswer.model_validate(response.json(), strict=True).error
    assert found.request_id == response.headers["x-request-id"]
    assert not re.search(r"(^|\s)/(?!docs|predict)\w+/|Traceback|\.py", found.message)
    return {"status": response.status_code, "code": found.code, "message": found.message}
