"""A mask as the fields of ROS 2 messages, in plain values: tested without ROS."""

from streamseg.types import Mask


def image_fields(mask: Mask) -> dict[str, object]:
    """The fields of a sensor_msgs/Image: mono8, a label for each pixel, 255 for unknown."""
    height, width = mask.size
    return {
        "height": height,
        "width": width,
        "encoding": "mono8",
        "is_bigendian": 0,
        "step": width,
        "data": mask.labels.tobytes(),
    }


def stamp_of(mask: Mask) -> tuple[int, int]:
    """(sec, nanosec) of when the frame was captured, for a std_msgs/Header."""
    return divmod(mask.captured_unix_ns, 1_000_000_000)


def topic_of(stream: str) -> str:
    """A ROS name for a stream: letters, digits and underscores, no digit first."""
    name = "".join(c if c.isascii() and c.isalnum() else "_" for c in stream)
    return f"/streamseg/{'_' if name[0].isdigit() else ''}{name}/mask"
