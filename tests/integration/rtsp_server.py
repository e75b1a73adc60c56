"""A real RTSP server for tests: GStreamer's, run by the system's Python in a process of its own.

`python3 rtsp_server.py PORT` serves a drawn picture at /live, the same for user "eye" with password "s3cret"
at /secret, one that ends after 2 s at /ends, and one with an intra frame every 120 s at /rare. PORT 0 takes
a free one. Prints "ready PORT".
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

PICTURE = "video/x-raw,width=160,height=120,framerate=25/1"
ENCODE = (
    "x264enc tune=zerolatency speed-preset=ultrafast key-int-max={} threads=1 ! rtph264pay name=pay0 pt=96"
)
ROLES = ("anyone", "viewer")


def serve(port):
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    add(server, "/live", "", ROLES)
    add(server, "/secret", "", ("viewer",))
    add(server, "/ends", "num-buffers=50", ROLES)
    add(server, "/rare", "", ROLES, gop=3000)
    auth = GstRtspServer.RTSPAuth()
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic("eye", "s3cret"), token("viewer"))
    auth.set_default_token(token("anyone"))
    server.set_auth(auth)
    server.attach(None)
    print("ready", server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


def add(server, path, options, allowed, gop=10):
    media = GstRtspServer.RTSPMediaFactory()
    media.set_launch(
        f"( videotestsrc is-live=true pattern=ball {options} ! {PICTURE} ! {ENCODE.format(gop)} )"
    )
    media.set_shared(True)
    for role in ROLES:
        rights = (
            f"media.factory.access=(boolean)true, media.factory.construct=(boolean){role in allowed}".lower()
        )
        media.add_role_from_structure(Gst.Structure.from_string(f"{role}, {rights}")[0])
    server.get_mount_points().add_factory(path, media)


def token(role):
    made = GstRtspServer.RTSPToken()
    made.set_string("media.factory.role", role)
    return made


serve(sys.argv[1])
