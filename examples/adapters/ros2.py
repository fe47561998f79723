# SPDX-License-Identifier: MIT
"""A ring of JPEGs as a topic of ROS 2, sensor_msgs/CompressedImage, and such a topic as a ring.

The image's bytes go through as they are, and so does its time: `header.stamp` is when the camera's frame was
captured, `frame_id` the name of its ring.

    source /opt/ros/jazzy/setup.bash   (then pip install valkka-async into that Python)
    python examples/adapters/ros2.py [the name of a ring of JPEGs]

`to_message` takes the message classes of rclpy as well as those of the package rosbags."""

import contextlib
import sys
from typing import Any

import numpy as np

import valkka_async as va


def to_message(frame: va.Frame, compressed_image: Any, header: Any, time: Any) -> Any:
    """A frame as a message. Raises ValueError for one that is not a JPEG."""
    if frame.format != "jpeg":
        raise ValueError(f'a ring of JPEGs is needed, not of {frame.format}: va.Output(..., "jpeg")')
    seconds, nanoseconds = divmod(frame.timestamp_ns, 1_000_000_000)
    stamp = time(sec=seconds, nanosec=nanoseconds)
    about = header(stamp=stamp, frame_id=frame.source)
    return compressed_image(header=about, format="jpeg", data=np.array(frame.array))


def publish(message: Any, server: va.Server) -> bool:
    """A message as a frame."""
    if "jpeg" not in message.format and "jpg" not in message.format:
        return False
    stamp = message.header.stamp
    return server.publish(
        np.frombuffer(message.data, np.uint8),
        format="jpeg",
        timestamp_ns=stamp.sec * 1_000_000_000 + stamp.nanosec,
    )


def main(name: str) -> None:
    import rclpy
    from builtin_interfaces.msg import Time
    from sensor_msgs.msg import CompressedImage
    from std_msgs.msg import Header

    rclpy.init()
    node = rclpy.create_node("valkka_" + name.replace(".", "_").replace("-", "_"))
    topic = node.create_publisher(CompressedImage, f"/{node.get_name()}/image/compressed", 1)
    with va.attach(name, reconnect=True) as reader, contextlib.suppress(KeyboardInterrupt):
        for frame in reader:  # the newest: a slow subscriber delays nobody
            with frame:
                topic.publish(to_message(frame, CompressedImage, Header, Time))
    node.destroy_node()


if __name__ == "__main__":
    main(sys.argv[1] if sys.argv[1:] else "camera.jpg")
