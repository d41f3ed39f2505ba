from lva import BaseBackgroundPlugin, add_point_tags, pluginHTTPResponse


class Doorbell(BaseBackgroundPlugin):
    async def initialize(self):
        self.addRoute("/doorbell", self.ring)

    async def ring(self, request):
        add_point_tags(door="front")
        return pluginHTTPResponse(body="ding dong\n")
