"""A real RTSP server for tests, by GStreamer; run by the system's Python: ``rtsp_server_program.py PORT``.

Paths are /h264 (with sound), /jpeg, /audio, and /secret, which wants the user ``user/1`` with the password
``hunter:2`` by Digest.
"""

import sys

import gi  # Debian's, for its own Python

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402, I001 - after the versions

VIDEO = "videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=160,height=120,framerate=25/1"
H264 = (
    "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=12 ! rtph264pay config-interval=-1"
)
SOUND = "audiotestsrc is-live=true ! alawenc ! rtppcmapay"


def main() -> None:
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(sys.argv[1])
    server.set_auth(_auth())
    for path, launch, roles in (
        ("/h264", f"{VIDEO} ! {H264} name=pay0 pt=96 {SOUND} name=pay1 pt=97", ("guest", "user")),
        ("/jpeg", f"{VIDEO} ! jpegenc ! rtpjpegpay name=pay0 pt=26", ("guest", "user")),
        ("/audio", f"{SOUND} name=pay0 pt=97", ("guest", "user")),
        ("/secret", f"{VIDEO} ! {H264} name=pay0 pt=96", ("user",)),
    ):
        factory = GstRtspServer.RTSPMediaFactory()
        factory.set_launch(f"( {launch} )")
        factory.set_shared(True)
        for role in ("guest", "user"):
            allowed = Gst.Structure.new_empty(role)
            allowed.set_value("media.factory.access", True)  # without it: not found
            allowed.set_value("media.factory.construct", role in roles)  # without it: unauthorized
            factory.add_role_from_structure(allowed)
        server.get_mount_points().add_factory(path, factory)
    server.attach(None)
    print(server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


def _auth() -> GstRtspServer.RTSPAuth:
    auth = GstRtspServer.RTSPAuth()
    auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
    auth.add_digest("user/1", "hunter:2", _token("user"))
    auth.set_default_token(_token("guest"))
    return auth


def _token(role: str) -> GstRtspServer.RTSPToken:
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", role)
    return token


main()
