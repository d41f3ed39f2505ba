"""Routes: a handler class, a coroutine, a plain function; variables, JSON, errors and points."""

from typing import Any

from werkzeug.exceptions import BadRequest, NotFound

from lva import (
    BaseBackgroundHandler,
    BaseBackgroundPlugin,
    PluginResponse,
    add_point_fields,
    add_point_tags,
    pluginHTTPResponse,
)

names: dict[int, str] = {}


class CameraHandler(BaseBackgroundHandler):
    """One method for each verb; other verbs are refused with 405."""

    async def get(self, request: Any, camera: int) -> PluginResponse:
        if camera not in names:
            raise NotFound(f"There is no camera {camera}.")
        add_point_tags(camera=camera)
        return self.response(body={"camera": camera, "name": names[camera]})

    async def put(self, request: Any, camera: int) -> PluginResponse:
        try:
            names[camera] = str((await request.get_json())["name"])
        except (KeyError, TypeError) as error:
            raise BadRequest("A camera is a JSON object with the member 'name'.") from error
        add_point_fields(cameras=len(names))
        return self.response(statusCode=204)


def count(request: Any) -> PluginResponse:
    """A plain `def` runs in a worker thread, where it may block."""
    return pluginHTTPResponse(body=f"{len(names)}\n")


class Cameras(BaseBackgroundPlugin):
    async def initialize(self) -> None:
        names.clear()
        self.addRoute("/cameras/<int:camera>", CameraHandler)
        self.addRoute("/cameras/count", count)
        self.addRoute("/cameras/search", self.search, methods={"get", "post"})

    async def search(self, request: Any) -> PluginResponse:
        """A coroutine method serves as well as a class; query parameters are in `request.args`."""
        wanted = request.args.get("name", "")
        found = [camera for camera, name in names.items() if wanted in name]
        return pluginHTTPResponse(body={"cameras": found})
