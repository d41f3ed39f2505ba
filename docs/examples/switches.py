"""A route: switches that are listed, set and removed over HTTP."""

from typing import Any

from pydantic import BaseModel, ValidationError
from werkzeug.exceptions import BadRequest, NotFound

from lva import BaseBackgroundHandler, BaseBackgroundPlugin, PluginResponse, pluginHTTPResponse


class Switch(BaseModel):
    """What PUT takes."""

    on: bool


switches: dict[str, bool] = {}


class SwitchHandler(BaseBackgroundHandler):
    """Serves ``/switches/<name>``; the path's variable comes by its name."""

    async def get(self, request: Any, name: str) -> PluginResponse:
        if name not in switches:
            raise NotFound(f"There is no switch {name!r}.")
        return self.response(body={"on": switches[name]})

    async def put(self, request: Any, name: str) -> PluginResponse:
        try:
            switches[name] = Switch.model_validate_json(await request.get_data()).on
        except ValidationError as error:
            raise BadRequest("A switch is a JSON object with the boolean 'on'.") from error
        return self.response(statusCode=204)

    async def delete(self, request: Any, name: str) -> PluginResponse:
        switches.pop(name, None)
        return self.response(statusCode=204)


class Switches(BaseBackgroundPlugin):
    async def initialize(self) -> None:
        switches.clear()
        self.addRoute("/switches", self.all)
        self.addRoute("/switches/<name>", SwitchHandler)

    async def all(self, request: Any) -> PluginResponse:
        return pluginHTTPResponse(body=switches)
